//! Why a token is refused: what the client is told, what the log and the metric call it.
//!
//! Made by `token`, `verify` and `authenticate`. The client reads no more than Envoy tells it, and nothing of keys, their
//! source or the rule.

use http::StatusCode;

macro_rules! refusals {
    ($( $(#[$doc:meta])* $name:ident = $label:literal, $told:literal; )+) => {
        /// Why a token doesn't authenticate a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal { $( $(#[$doc])* #[error($told)] $name, )+ }

        impl Refusal {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Label of `mesh_agent_jwt_authentications_total` and the log's word.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// The access log's word, which tells it from other refusals.
            pub const fn details(self) -> &'static str {
                match self { $(Self::$name => concat!("jwt_", $label)),+ }
            }

            /// What the client is told, in the words of Envoy's jwt_authn filter.
            pub const fn told(self) -> &'static str {
                match self { $(Self::$name => $told),+ }
            }
        }
    };
}

refusals! {
    /// It isn't three parts of base64url, or its header isn't one.
    Malformed = "malformed", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    /// It is longer than a token may be, or a request has more of them than are looked at.
    TooLarge = "too_large", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    /// A claim is said twice, is of a type that it can't have, or there are too many.
    BadClaims = "bad_claims", "Jwt payload is an invalid JSON";
    /// `alg` is none that a public key verifies.
    Algorithm = "algorithm", "Jwt header [alg] is not supported";
    /// `crit`, or another header parameter that changes what a signature means.
    Critical = "critical_header", "Jwt verification fails";
    /// No rule is about the token's issuer.
    UnknownIssuer = "unknown_issuer", "Jwt issuer is not configured";
    /// `nbf` is more than a minute ahead.
    NotYetValid = "not_yet_valid", "Jwt not yet valid";
    /// `exp` is more than a minute past.
    Expired = "expired", "Jwt is expired";
    /// None of its audiences is one of the rule's.
    Audience = "audience", "Audiences in Jwt are not allowed";
    /// No key of the issuer has its `kid` and may be used with its `alg`.
    NoKey = "no_key", "Jwt verification fails";
    /// The signature isn't that of any key that it could be of.
    Signature = "signature", "Jwt verification fails";
    /// The issuer's keys were never read so far, or its rule can't be used.
    KeysUnavailable = "keys_unavailable", "Jwt verification fails";
}

impl Refusal {
    /// 403 for audiences, as in Envoy: the token is valid and for somebody else. 401 for everything else.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Audience => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The one that says more, of two rules that looked at the same token: what a rule for another issuer says is the least.
    pub fn or(self, other: Self) -> Self {
        if self == Self::UnknownIssuer { other } else { self }
    }
}
