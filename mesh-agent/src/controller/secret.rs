//! The authority's key in a Secret: read, or made once if there is none.
//!
//! cert-manager's layout: `tls.crt`, `tls.key`, `ca.crt`. Of several controllers that find none, the one whose Secret is created
//! first has made it; the others take that. It is looked at again now and then, for cert-manager's renewals; what the controllers
//! made themselves the one that leads renews (`renewal`), under the version that it read. Nothing else is ever replaced.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ::kube::api::{ObjectMeta, PostParams};
use ::kube::{Api, Client, Error};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::renewal::{self, KEYS, Plan};
use crate::identity::authority::AuthorityError;
use crate::identity::issuer::{self, Given};
use crate::kube::{DEADLINE, Failure};
use crate::report;

/// Pauses between tries at the start.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];

/// What somebody else wrote meanwhile is looked at at once, so often; then at the next look.
const AGAIN: u32 = 5;

/// What came of a look.
enum Looked {
    /// Nothing was due, or it is written.
    Settled,
    /// Somebody else has written since it was read.
    Lost,
}

/// Where the key is.
pub struct KeySecret {
    secrets: Api<Secret>,
    namespace: String,
    name: String,
    plan: Plan,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is there and can't be an authority's.
    #[error(
        "Secret {namespace}/{name} has no {key}: expected cert-manager's layout, tls.crt, tls.key and ca.crt"
    )]
    Lacks {
        /// Of it.
        namespace: String,
        /// Of it.
        name: String,
        /// What it lacks.
        key: &'static str,
    },
    /// A root can't be made.
    #[error("a root can't be made")]
    Root(#[from] AuthorityError),
    /// The API server.
    #[error("Secret {namespace}/{name}: {why}")]
    Server {
        /// Of it.
        namespace: String,
        /// Of it.
        name: String,
        /// What the API server said.
        why: String,
    },
}

impl KeySecret {
    /// The Secret of this name.
    pub fn new(client: &Client, namespace: &str, name: &str, plan: Plan) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { secrets, namespace: namespace.to_owned(), name: name.to_owned(), plan }
    }

    /// What it has; made if there is none. Waits for an API server that doesn't answer, and says so to `waits`.
    ///
    /// # Errors
    /// It is there and of no use.
    pub async fn wait(&self, waits: impl Fn(String)) -> Result<Given, SecretError> {
        let mut pauses = PAUSES.iter().chain(std::iter::repeat(&PAUSES[PAUSES.len() - 1]));
        waits(format!("Secret {}/{}, which has the key that signs", self.namespace, self.name));
        loop {
            match self.ensure().await {
                Err(error @ SecretError::Server { .. }) => {
                    waits(format!("the key that signs: {}", report::chain(&error)));
                    tracing::warn!(error = %report::chain(&error), "the key that signs can't be had, trying again");
                }
                ended => return ended,
            }
            if let Some(pause) = pauses.next() {
                tokio::time::sleep(*pause).await;
            }
        }
    }

    async fn ensure(&self) -> Result<Given, SecretError> {
        if let Some(secret) = self.asked(self.secrets.get_opt(&self.name)).await? {
            return self.read(secret);
        }
        let made = issuer::root(renewal::SUBJECT, self.plan.life, SystemTime::now())?;
        let texts = [made.certificate.as_bytes(), made.key.as_bytes(), made.certificate.as_bytes()];
        let data = KEYS.into_iter().zip(texts).map(|(key, text)| (key.to_owned(), ByteString(text.to_vec())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".into(), "mesh-agent".into())])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(data.collect()),
            ..Secret::default()
        };
        let created = timeout(DEADLINE, self.secrets.create(&PostParams::default(), &secret)).await;
        match created {
            Ok(Err(Error::Api(status))) if status.code == 409 => {
                let secret = self.asked(self.secrets.get(&self.name)).await?;
                self.read(secret)
            }
            Ok(Ok(secret)) => {
                tracing::info!(
                    namespace = self.namespace,
                    name = self.name,
                    "a root was made and put into a Secret"
                );
                self.read(secret)
            }
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.said(Failure::Timeout.describe())),
        }
    }

    /// Hands on every change, for ever; renews a root of the controllers' own while `leads` says so.
    pub async fn follow(&self, leads: impl Fn() -> bool, hand_on: impl Fn(Given)) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(renewal::look(self.plan.life)).await;
            let mut looked = self.look(&leads, &hand_on).await;
            for _ in 0..AGAIN {
                if matches!(looked, Ok(Looked::Lost)) {
                    looked = self.look(&leads, &hand_on).await;
                }
            }
            match looked {
                Ok(Looked::Settled | Looked::Lost) => said.clear(),
                Err(error) => {
                    let why = report::chain(&error).to_string();
                    if why != said {
                        tracing::warn!(
                            why,
                            "the key that signs can't be read again or renewed, the former is in force"
                        );
                        said = why;
                    }
                }
            }
        }
    }

    async fn look(&self, leads: &impl Fn() -> bool, hand_on: &impl Fn(Given)) -> Result<Looked, SecretError> {
        let Some(secret) = self.asked(self.secrets.get_opt(&self.name)).await? else {
            return Err(self.said("it is gone; the key that was read signs on"));
        };
        let renewed = if leads() { self.plan.step(&secret, SystemTime::now())? } else { None };
        hand_on(self.read(secret)?);
        let Some((renewed, phase)) = renewed else { return Ok(Looked::Settled) };
        // Under the version that was read.
        let params = PostParams::default();
        match timeout(DEADLINE, self.secrets.replace(&self.name, &params, &renewed)).await {
            Ok(Ok(secret)) => {
                tracing::info!(namespace = self.namespace, name = self.name, "{}", phase.describe());
                hand_on(self.read(secret)?);
                Ok(Looked::Settled)
            }
            Ok(Err(Error::Api(status))) if status.code == 409 => Ok(Looked::Lost),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.said(Failure::Timeout.describe())),
        }
    }

    async fn asked<T>(&self, ask: impl Future<Output = Result<T, Error>>) -> Result<T, SecretError> {
        match timeout(DEADLINE, ask).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.said(Failure::Timeout.describe())),
        }
    }

    fn failed(&self, error: &Error) -> SecretError {
        self.said(&format!("{}: {}", Failure::of(error).describe(), report::chain(error)))
    }

    fn said(&self, why: &str) -> SecretError {
        SecretError::Server {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            why: why.to_owned(),
        }
    }

    fn read(&self, secret: Secret) -> Result<Given, SecretError> {
        let mut data = secret.data.unwrap_or_default();
        let mut part = |key: &'static str| {
            let found = data.remove(key).filter(|bytes| !bytes.0.is_empty());
            found.map(|bytes| Zeroizing::new(bytes.0)).ok_or_else(|| SecretError::Lacks {
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                key,
            })
        };
        Ok(Given { chain: part(KEYS[0])?, key: part(KEYS[1])?, roots: part(KEYS[2])? })
    }
}
