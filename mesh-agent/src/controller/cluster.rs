//! What the controller does on Kubernetes beside signing: leads or follows, writes status and trust bundles, reads its key.

use std::rc::Rc;
use std::time::Duration;

use ::kube::Client;

use super::bundle::Publisher;
use super::identity;
use super::lease::{Candidate, Leadership};
use super::renewal::Plan;
use super::review::Reviewer;
use super::secret::KeySecret;
use super::serve::Controller;
use super::settings::ControllerSettings;
use super::status::Writer;
use crate::kube::{self, KubeError};

/// Who leads holds this one.
const LEASE: &str = "mesh-agent-controller";
/// How much longer an old root is trusted than any of its certificates lives.
const MARGIN: Duration = Duration::from_secs(60);

/// The API server, and where in it controller and agents are.
pub struct Cluster {
    client: Client,
    namespace: String,
    account: String,
    plan: Plan,
}

impl Cluster {
    /// Who is asked. That nobody answers is no mistake.
    ///
    /// # Errors
    /// Nothing says which API server, or how.
    pub async fn find(settings: &ControllerSettings) -> Result<Self, KubeError> {
        let config = kube::config().await?;
        let client = kube::client(&config)?;
        let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        // The controller's own certificate may outlive the agents'. A minute for the clocks, and for controllers that look late.
        let hold = settings.max_certificate_lifetime.max(identity::LIFE) + MARGIN;
        let plan = Plan { life: settings.root_lifetime, hold };
        Ok(Self { client, namespace, account: settings.agent_account.clone(), plan })
    }

    /// Tells agents by their tokens.
    pub fn reviewer(&self) -> Reviewer {
        Reviewer::new(&self.client, &self.namespace, &self.account)
    }

    /// The key in a Secret.
    pub fn key(&self, name: &str) -> KeySecret {
        KeySecret::new(&self.client, &self.namespace, name, self.plan)
    }

    /// One that would lead, by a name of its own.
    pub fn candidate(&self) -> (Candidate, Leadership) {
        let host = crate::settings::value::host_name();
        let identity = format!("{host}_{:08x}", fastrand::u32(..));
        Candidate::new(&self.client, &self.namespace, LEASE, identity)
    }

    /// Writes what is to be written while this one leads, for ever.
    pub async fn write(&self, controller: &Rc<Controller>, leadership: &Leadership) {
        let parts = &controller.parts;
        let (client, published) = (self.client.clone(), parts.published.clone());
        let status =
            Writer::new(client.clone(), published.clone(), leadership.clone(), parts.metrics.clone());
        let bundles = Publisher::new(
            client,
            self.namespace.clone(),
            published,
            leadership.clone(),
            parts.metrics.clone(),
            controller.bundle(),
        );
        tokio::join!(status.run(), bundles.run());
    }
}
