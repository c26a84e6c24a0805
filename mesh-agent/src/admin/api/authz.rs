//! What the admin API is asked and answers about authorization: `POST /v1/authz/check`.

use serde::{Deserialize, Serialize};

views! {
    /// Whether somebody may do something.
    AuthzQuestion {
        /// `pod/NAMESPACE/NAME`, `sa/NAMESPACE/NAME`, or an address.
        from: String,
        /// `pod/NAMESPACE/NAME` or `svc/NAMESPACE/NAME`.
        to: String,
        /// Of the pod, or of the Service.
        #[serde(default)]
        port: Option<u16>,
        /// A request's method.
        #[serde(default)]
        method: Option<String>,
        /// A request's path.
        #[serde(default)]
        path: Option<String>,
        /// A request's host.
        #[serde(default)]
        host: Option<String>,
        /// A request's headers, `NAME: VALUE`.
        #[serde(default)]
        headers: Vec<String>,
        /// A request's token, judged as the data path does, or claims as JSON, taken for true.
        #[serde(default)]
        jwt: Option<String>,
    }
    /// The answer, for every pod that is meant.
    AuthzAnswer {
        /// Who asks.
        from: String,
        /// Its identity as far as it is proven; empty for none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        identity: String,
        /// Its address.
        address: String,
        /// What is asked for: `GET /path of HOST`, or `a connection`.
        asked: String,
        /// False if one of the pods denies it.
        allowed: bool,
        /// One for each pod.
        targets: Vec<AuthzTarget>,
        /// What else matters.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    }
    /// What one pod says.
    AuthzTarget {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// Address and port.
        address: String,
        /// It may.
        allowed: bool,
        /// By which rule, or why by none.
        reason: String,
        /// `NAMESPACE/NAME` of the deciding policy; empty for none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        policy: String,
        /// Which of its rules.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<usize>,
        /// What the pod makes of the token, where one was given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// The provider that is asked first, by the rule of action CUSTOM that says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asks: Option<String>,
        /// What policies in dry run would say, where there are any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dry_run: Option<String>,
        /// Every rule, in the order in which they are asked.
        rules: Vec<AuthzRule>,
    }
    /// A rule that was asked.
    AuthzRule {
        /// `NAMESPACE/NAME` of the policy.
        policy: String,
        /// Which of its rules.
        rule: usize,
        /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
        action: String,
        /// It isn't enforced.
        #[serde(default)]
        dry_run: bool,
        /// It fits.
        fits: bool,
        /// It decides.
        decides: bool,
        /// What of it doesn't hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        why_not: Vec<String>,
    }
}
