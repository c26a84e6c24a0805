//! Strings of a given form, refused where they stand. Patterns are those of the CRDs, written as plain functions.

use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

macro_rules! texts {
    ($( $(#[$doc:meta])* $name:ident = $min:literal..=$max:literal, $form:path, $want:literal; )+) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(String);

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { min: $min, max: $max, form: $form, want: $want }).map(Self)
            }
        }
    )+ };
}

texts! {
    /// A host name or IP literal in lower case, without wildcard.
    Hostname = 1..=253, is_dotted, "a host name in lower case, without wildcard";
    /// A host name that may begin with `*.`.
    HostPattern = 1..=253, is_host_pattern, "a host name in lower case, of which only the first label may be *";
    /// An API group; empty for core.
    GroupName = 0..=253, is_group, "an API group, such as gateway.networking.k8s.io, or \"\" for core";
    /// A kind.
    KindName = 1..=63, is_kind, "a kind of letters, digits and '-'";
    /// The name of what is referred to.
    RefName = 1..=253, anything, "a name";
    /// A namespace.
    NamespaceName = 1..=63, is_label, "a namespace of a-z, 0-9 and '-'";
    /// The name of a rule.
    SectionName = 1..=253, is_dotted, "a name of a-z, 0-9, '-' and '.'";
    /// A name of labels with dots between them.
    DottedName = 1..=253, is_dotted, "a name of a-z, 0-9, '-' and '.'";
    /// A header's name (RFC 9110, section 5.1), or a name under the same rule.
    FieldName = 1..=256, is_token, "a name of letters, digits and !#$%&'*+-.^_`|~";
    /// A header's value: visible ASCII with single blanks inside.
    FieldValue = 1..=4096, is_field_value, "visible ASCII with single blanks inside";
    /// An origin that CORS allows: `*`, or scheme and host with an optional port and wildcard.
    CorsOrigin = 1..=253, is_origin, "*, or http(s)://HOST[:PORT] where HOST may begin with *.";
}

struct Text {
    min: usize,
    max: usize,
    form: fn(&str) -> bool,
    want: &'static str,
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string: {}", self.want)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
        let length = value.chars().count();
        if (self.min..=self.max).contains(&length) && (self.form)(value) {
            return Ok(value.to_owned());
        }
        let shown: String = value.chars().take(64).collect();
        let Self { min, max, want, .. } = self;
        Err(E::custom(format_args!("{shown:?} can't stand here: expected {want}, {min} to {max} characters")))
    }
}

fn anything(_: &str) -> bool {
    true
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_group(text: &str) -> bool {
    text.is_empty() || is_dotted(text)
}

fn is_host_pattern(text: &str) -> bool {
    is_dotted(text.strip_prefix("*.").unwrap_or(text))
}

fn is_kind(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// RFC 9110's token.
fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_field_value(text: &str) -> bool {
    let blank = |b: u8| b == b' ' || b == b'\t';
    let bytes = text.as_bytes();
    let ends =
        bytes.first().is_some_and(u8::is_ascii_graphic) && bytes.last().is_some_and(u8::is_ascii_graphic);
    ends && bytes.iter().all(|b| b.is_ascii_graphic() || blank(*b))
        && !bytes.windows(2).any(|pair| blank(pair[0]) && blank(pair[1]))
}

fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let host = host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(label);
    host && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()))
}
