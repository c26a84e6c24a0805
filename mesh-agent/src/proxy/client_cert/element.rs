//! One element of X-Forwarded-Client-Cert in Envoy's grammar, with the fields that Istio has it written with.
//!
//! Envoy: pairs with semicolons between, elements with commas; a value with one of `,;=` in quotes, in which a quote has a
//! backslash before it. A backslash has no escape of its own, so a subject with one, which could swallow the closing quote,
//! isn't told. Pure; `client_cert` says what is put in.

use std::fmt::{self, Display, Formatter};

/// What a certificate says.
pub(crate) struct Element<'a> {
    /// Whom the client has reached.
    pub(crate) by: &'a str,
    /// SHA-256 of the certificate, hexadecimal.
    pub(crate) hash: &'a str,
    /// The certificate's; empty for most (SPIFFE's name is its URI).
    pub(crate) subject: &'a str,
    /// Who the client is.
    pub(crate) uri: &'a str,
}

impl Display for Element<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let subject = if self.subject.contains('\\') { "" } else { self.subject };
        f.write_str("By=")?;
        put(self.by, f)?;
        write!(f, ";Hash={};Subject=", self.hash)?;
        put_quoted(subject, f)?;
        f.write_str(";URI=")?;
        put(self.uri, f)
    }
}

fn put(value: &str, f: &mut Formatter<'_>) -> fmt::Result {
    if value.contains([',', ';', '=', '"']) { put_quoted(value, f) } else { f.write_str(value) }
}

fn put_quoted(value: &str, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "\"{}\"", value.replace('"', "\\\""))
}

/// Reads elements as Envoy's documentation says: keys in small letters, and values without quotes. For tests.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn parse(text: &str) -> Option<Vec<Vec<(String, String)>>> {
    let mut elements = vec![Vec::new()];
    let mut rest = text;
    loop {
        let (key, behind) = rest.split_once('=')?;
        if key.is_empty() || key.contains([',', ';', '"']) {
            return None;
        }
        let (value, behind) = take_value(behind)?;
        elements.last_mut()?.push((key.to_ascii_lowercase(), value));
        rest = match behind.split_at_checked(1) {
            None => return Some(elements),
            Some((";", behind)) => behind,
            Some((",", behind)) => {
                elements.push(Vec::new());
                behind
            }
            Some(_) => return None,
        };
    }
}

#[cfg(any(test, feature = "fuzzing"))]
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(mut quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';']).unwrap_or(text.len());
        let (value, behind) = text.split_at(end);
        return (!value.contains(['=', '"'])).then(|| (value.to_owned(), behind));
    };
    let mut value = String::new();
    loop {
        let end = quoted.find('"')?;
        let (part, behind) = quoted.split_at(end);
        quoted = &behind[1..];
        match part.strip_suffix('\\') {
            Some(part) => value.extend([part, "\""]),
            None => {
                value.push_str(part);
                return Some((value, quoted));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const BY: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    const URI: &str = "spiffe://cluster.local/ns/shop/sa/web";

    fn element(subject: &str) -> String {
        Element { by: BY, hash: "0a1b", subject, uri: URI }.to_string()
    }

    #[test]
    fn an_element_is_written_as_istio_s_proxies_write_it() {
        assert_eq!(element(""), format!("By={BY};Hash=0a1b;Subject=\"\";URI={URI}"));
        assert_eq!(element("O=SPIRE,C=US"), format!("By={BY};Hash=0a1b;Subject=\"O=SPIRE,C=US\";URI={URI}"));
        assert_eq!(element("CN=\"a\""), format!("By={BY};Hash=0a1b;Subject=\"CN=\\\"a\\\"\";URI={URI}"));
        assert_eq!(element("CN=a\\"), element(""), "it would take the closing quote with it");
        let odd = Element { by: "a;b=\"c\"", hash: "", subject: "", uri: "" }.to_string();
        assert_eq!(odd, "By=\"a;b=\\\"c\\\"\";Hash=;Subject=\"\";URI=");
    }

    proptest! {
        #[test]
        fn no_subject_makes_anything_but_a_subject(subject in "[a-z=,;\" \\\\]{0,20}") {
            let parsed = parse(&element(&subject)).unwrap();
            let subject = if subject.contains('\\') { String::new() } else { subject };
            let wanted = [("by", BY), ("hash", "0a1b"), ("subject", &subject), ("uri", URI)];
            prop_assert_eq!(parsed, [wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()]);
        }
    }

    #[test]
    fn what_is_no_element_is_not_read() {
        for text in ["", "By", "=a", "By=\"a", "By=\"a\"b", "By=a=b", "By=a;", "By=a,", "By=a\"b"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
