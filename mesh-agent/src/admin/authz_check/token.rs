//! What a question says of a request's token: the token itself, held against the rules of each pod as the data path holds it, or
//! claims, for questions about a token that nobody has yet.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::jwt::Claims;
use crate::model::{Snapshot, Workload};

/// A token, or what one would say.
#[derive(Debug)]
pub enum Token {
    /// In its compact form.
    Compact(String),
    /// Taken for true.
    Claims(Arc<Claims>),
}

/// What one pod makes of it.
#[derive(Debug)]
pub enum Judged {
    /// It says this; in words.
    Holds(Arc<Claims>, String),
    /// The request is refused; in words.
    Refused(String),
    /// Nobody looks at it.
    Ignored,
}

impl Token {
    /// A token, or its claims as JSON.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Ok(Self::Compact(text.to_owned()));
        }
        let bad = |error| format!("the claims aren't JSON: {error}");
        let all: Map<String, Value> = serde_json::from_str(text).map_err(bad)?;
        let text = |name: &str| all.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (issuer, subject) = (text("iss"), text("sub"));
        let principal = if issuer.is_empty() || subject.is_empty() {
            String::new()
        } else {
            format!("{issuer}/{subject}")
        };
        let audiences = match all.get("aud") {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        };
        Ok(Self::Claims(Arc::new(Claims { principal, audiences, presenter: text("azp"), all })))
    }

    /// Held against what selects the pod.
    pub fn judge(&self, snapshot: &Snapshot, workload: &Workload, port: u16) -> Judged {
        let token = match self {
            Self::Claims(claims) => return Judged::Holds(claims.clone(), "taken for valid".to_owned()),
            Self::Compact(token) => token,
        };
        let Some(tokens) = snapshot.tokens_for(workload) else { return Judged::Ignored };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let rule_of = |rule: &crate::jwt::Rule| {
            format!("RequestAuthentication {}, jwtRules[{}]", rule.object, rule.index)
        };
        match tokens.at(port).check_token(token, now) {
            Ok((claims, rule)) => {
                let whose = match &*claims.principal {
                    "" => "of nobody, lacking iss or sub".to_owned(),
                    principal => principal.to_owned(),
                };
                let said = format!("holds: {whose}, by {}", rule_of(rule));
                Judged::Holds(claims, said)
            }
            Err(refused) => {
                let by = refused.rule.map(|rule| format!(", by {}", rule_of(rule))).unwrap_or_default();
                let why = refused.why;
                Judged::Refused(format!("{} ({}): {}{by}", why.status().as_u16(), why.label(), why.told()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn claims_are_taken_as_they_are_and_all_else_is_a_token() {
        let Token::Claims(claims) = Token::new(r#" {"iss": "i", "sub": "s", "aud": ["a", "b"]}"#).unwrap()
        else {
            panic!()
        };
        assert_eq!((claims.principal.as_str(), claims.audiences.len()), ("i/s", 2));
        assert!(matches!(Token::new("a.b.c\n").unwrap(), Token::Compact(token) if token == "a.b.c"));
        assert!(Token::new("{x").is_err());
    }
}
