//! Which node an agent speaks for, by its service account's token: the API server says whose it is (TokenReview).
//!
//! The token is for the audience `mesh-agent` and for nothing else, and of the agents' service account: anybody who may make a
//! pod may have a token for any audience, so the account is what counts. The node is the token's own claim, or that of the
//! pod that it is bound to. Nothing is remembered: a pod that is deleted has no token any more.

use std::collections::BTreeMap;
use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use crate::kube::Failure;

/// Whom the tokens are for.
pub const AUDIENCE: &str = "mesh-agent";
/// For each question to the API server; an agent waits ten seconds for its certificate.
const PATIENCE: Duration = Duration::from_secs(4);

const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    pods: Api<Pod>,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    user: String,
}

/// The API server gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server can't be asked whose token it is: {0}")]
pub struct Unanswered(pub String);

/// What a review says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// The agent of this node.
    Node(String),
    /// The agent in this pod.
    Pod {
        /// Its name.
        name: String,
        /// Its uid: a name is used again.
        uid: String,
    },
    /// Nobody whom we sign for; why.
    Nobody(String),
}

impl Reviewer {
    /// Knows agents by their service account.
    pub fn new(client: &Client, namespace: &str, account: &str) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            pods: Api::namespaced(client.clone(), namespace),
            user: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }

    /// The node whose agent shows this token; none if it is no agent's.
    ///
    /// # Errors
    /// The API server gave no answer.
    pub async fn node_of(&self, token: &str) -> Result<Option<String>, Unanswered> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let review = bounded(self.reviews.create(&PostParams::default(), &review)).await?;
        match bearer(review.status.as_ref(), &self.user) {
            Bearer::Node(node) => Ok(Some(node)),
            Bearer::Pod { name, uid } => {
                let pod = bounded(self.pods.get_opt(&name)).await?;
                Ok(pod.filter(|pod| pod.metadata.uid.as_ref() == Some(&uid)).and_then(node_of_pod))
            }
            Bearer::Nobody(why) => {
                tracing::debug!(why, "a token is no agent's");
                Ok(None)
            }
        }
    }
}

async fn bounded<T>(ask: impl Future<Output = Result<T, ::kube::Error>>) -> Result<T, Unanswered> {
    match timeout(PATIENCE, ask).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Unanswered(Failure::of(&error).describe().to_owned())),
        Err(_) => Err(Unanswered(Failure::Timeout.describe().to_owned())),
    }
}

fn node_of_pod(pod: Pod) -> Option<String> {
    pod.spec?.node_name.filter(|node| !node.is_empty())
}

/// Whose token it is.
fn bearer(status: Option<&TokenReviewStatus>, user: &str) -> Bearer {
    let nobody = |why: &str| Bearer::Nobody(why.to_owned());
    let Some(status) = status.filter(|status| status.authenticated == Some(true)) else {
        return nobody("it isn't valid, or for another audience");
    };
    // A server that knows no audiences accepts tokens for any, and says none.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return nobody("it is for another audience");
    }
    let Some(found) = &status.user else { return nobody("it is nobody's") };
    if found.username.as_deref() != Some(user) {
        let whose = found.username.as_deref().unwrap_or_default();
        return Bearer::Nobody(format!("it is of {whose:?}, expected {user:?}"));
    }
    let extra = found.extra.as_ref();
    if let Some(node) = one(extra, NODE) {
        return Bearer::Node(node);
    }
    match (one(extra, POD), one(extra, POD_UID)) {
        (Some(name), Some(uid)) => Bearer::Pod { name, uid },
        _ => nobody("it is bound to no pod"),
    }
}

/// The one value that isn't empty; of several nobody knows which counts.
fn one(extra: Option<&BTreeMap<String, Vec<String>>>, key: &str) -> Option<String> {
    match extra?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    const USER: &str = "system:serviceaccount:mesh:mesh-agent";

    fn status(user: &str, audiences: &[&str], extra: &[(&str, &[&str])]) -> TokenReviewStatus {
        let owned = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        let extra = extra.iter().map(|(key, values)| (key.to_string(), owned(values))).collect();
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(owned(audiences)),
            user: Some(UserInfo { username: Some(user.into()), extra: Some(extra), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    #[test]
    fn only_the_agents_account_with_the_audience_and_a_node_or_pod_is_somebody() {
        let node: (&str, &[&str]) = (NODE, &["node-a"]);
        let pod: [(&str, &[&str]); 2] = [(POD, &["mesh-agent-x"]), (POD_UID, &["1234"])];
        let check = |status: TokenReviewStatus, want: Option<Bearer>| {
            let found = bearer(Some(&status), USER);
            match want {
                Some(want) => assert_eq!(found, want),
                None => assert!(matches!(found, Bearer::Nobody(_)), "{found:?}"),
            }
        };
        check(status(USER, &["mesh-agent"], &[node]), Some(Bearer::Node("node-a".into())));
        let bound = Bearer::Pod { name: "mesh-agent-x".into(), uid: "1234".into() };
        check(status(USER, &["mesh-agent"], &pod), Some(bound));
        check(status(USER, &[], &[node]), None);
        check(status(USER, &["https://kubernetes.default.svc"], &[node]), None);
        check(status("system:serviceaccount:other:mesh-agent", &["mesh-agent"], &[node]), None);
        check(status("system:serviceaccount:mesh:default", &["mesh-agent"], &[node]), None);
        check(status(USER, &["mesh-agent"], &[]), None);
        check(status(USER, &["mesh-agent"], &[(NODE, &["a", "b"])]), None);
        check(status(USER, &["mesh-agent"], &[(POD, &["mesh-agent-x"])]), None);
        check(TokenReviewStatus { authenticated: None, ..status(USER, &["mesh-agent"], &[node]) }, None);
        assert!(matches!(bearer(None, USER), Bearer::Nobody(_)));
    }
}
