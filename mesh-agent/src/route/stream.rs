//! Rules for connections that aren't carried as requests: by server name (TLSRoute), or one for all (TCPRoute).
//!
//! Asked once a connection, with the SNI of its ClientHello if there is one; never opens TLS.

use std::collections::HashMap;
use std::sync::Arc;

use super::precedence::Origin;
use super::rule::RuleName;
use super::weights::Backends;
use crate::model::ObjectName;

/// A host name's most bytes (RFC 1035, 2.3.4, without the length octets). A longer server name is none.
const MAX_NAME: usize = 253;

/// A rule of a TLSRoute or TCPRoute and the server names that it is for.
#[derive(Clone, Debug)]
pub struct StreamEntry {
    /// Names, or `*.` and what one or more labels stand in front of; an empty list is any, and no name at all.
    pub hostnames: Vec<String>,
    /// What a connection that matches goes by.
    pub rule: Arc<StreamRule>,
    /// The route's `creationTimestamp`, in UTC as the API server writes it; None counts as younger than any.
    pub created: Option<String>,
    /// The route.
    pub route: ObjectName,
    /// Place of the rule in the route, from 0.
    pub rule_index: usize,
}

/// A rule of a TCPRoute or TLSRoute.
#[derive(Debug)]
pub struct StreamRule {
    /// Which one it is.
    pub name: RuleName,
    /// Where its connections go.
    pub backends: Backends,
}

/// Rules for connections that aren't carried as requests.
#[derive(Debug, Default)]
pub struct StreamTable {
    /// In lower case.
    exact: HashMap<String, Arc<StreamRule>>,
    /// By what follows the asterisk, with its dot.
    wildcards: HashMap<String, Arc<StreamRule>>,
    any: Option<Arc<StreamRule>>,
    /// As they were put in, in the order that breaks ties.
    entries: Vec<StreamEntry>,
}

impl StreamTable {
    /// Of several rules for one name, the oldest route's counts, then by name, then the first in the route.
    pub fn new(mut entries: Vec<StreamEntry>) -> Self {
        entries.sort_by(|one, other| origin(one).order(&origin(other)));
        let mut table = Self::default();
        for StreamEntry { hostnames, rule, .. } in &entries {
            for name in hostnames.iter().map(|name| name.to_ascii_lowercase()) {
                let rule = rule.clone();
                match name.strip_prefix('*') {
                    Some(rest) => table.wildcards.entry(rest.to_owned()).or_insert(rule),
                    None => table.exact.entry(name).or_insert(rule),
                };
            }
            if hostnames.is_empty() {
                table.any.get_or_insert_with(|| rule.clone());
            }
        }
        table.entries = entries;
        table
    }

    /// Every rule, in the order that breaks ties.
    pub fn entries(&self) -> &[StreamEntry] {
        &self.entries
    }

    /// True if server names decide (TLSRoute).
    pub fn by_server_name(&self) -> bool {
        !self.exact.is_empty() || !self.wildcards.is_empty()
    }

    /// The rule for a connection with this server name (None: it isn't TLS, or has none). None: no rule matches, and the
    /// connection is refused. The most specific name counts: itself, then the longest wildcard, then any.
    pub fn find(&self, sni: Option<&str>) -> Option<&Arc<StreamRule>> {
        let mut buffer = [0; MAX_NAME];
        let name = sni.and_then(|name| lower(name, &mut buffer));
        name.and_then(|name| self.named(name)).or(self.any.as_ref())
    }

    fn named(&self, name: &str) -> Option<&Arc<StreamRule>> {
        let wildcard = || {
            // The asterisk stands for at least one label, so the dot is never the first character.
            let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            dots.filter_map(|(at, _)| self.wildcards.get(name.get(at..)?)).next()
        };
        self.exact.get(name).or_else(wildcard)
    }
}

fn origin(entry: &StreamEntry) -> Origin<'_> {
    Origin { created: entry.created.as_deref(), route: &entry.route, place: (entry.rule_index, 0) }
}

/// `name` in lower case, without allocating.
fn lower<'b>(name: &str, buffer: &'b mut [u8; MAX_NAME]) -> Option<&'b str> {
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(route: &str, created: &str, hostnames: &[&str]) -> StreamEntry {
        let route = ObjectName::new("ns", route);
        let name = RuleName::new("TLSRoute", route.clone(), 0, None);
        let rule = Arc::new(StreamRule { name, backends: Backends::default() });
        let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
        StreamEntry { hostnames, rule, created: Some(created.to_owned()), route, rule_index: 0 }
    }

    #[test]
    fn the_most_specific_server_name_counts() {
        let check = |sni: Option<&str>, expected: Option<&str>| {
            let table = StreamTable::new(vec![
                entry("any-com", "2024-01-01T00:00:00Z", &["*.com"]),
                entry("wild", "2024-01-03T00:00:00Z", &["*.Example.com", "*.a.example.com"]),
                entry("older", "2024-01-01T00:00:00Z", &["dup.example.com"]),
                entry("exact", "2024-01-02T00:00:00Z", &["dup.example.com", "x.example.com"]),
            ]);
            let found = table.find(sni).map(|rule| rule.name.route.name.as_str());
            assert_eq!(found, expected, "{sni:?}");
        };
        check(Some("x.example.com"), Some("exact"));
        check(Some("X.EXAMPLE.com"), Some("exact"));
        check(Some("dup.example.com"), Some("older"));
        check(Some("y.example.com"), Some("wild"));
        check(Some("z.y.example.com"), Some("wild"));
        check(Some("example.com"), Some("any-com"));
        check(Some(".example.com"), Some("any-com"));
        check(Some("com"), None);
        check(Some("example.org"), None);
        check(None, None);
        check(Some(&"x.".repeat(200)), None);
    }

    #[test]
    fn a_rule_without_names_is_for_every_connection_that_no_name_takes() {
        let entries = |first: &str| {
            vec![
                entry("b", "2024-01-02T00:00:00Z", &[]),
                entry("a", first, &[]),
                entry("named", "2024-01-03T00:00:00Z", &["x.org"]),
            ]
        };
        let check = |first: &str, sni: Option<&str>, expected: &str| {
            let table = StreamTable::new(entries(first));
            assert_eq!(table.find(sni).unwrap().name.route.name, expected, "{sni:?}");
        };
        check("2024-01-02T00:00:00Z", None, "a");
        check("2024-01-05T00:00:00Z", None, "b");
        check("2024-01-02T00:00:00Z", Some("y.org"), "a");
        check("2024-01-02T00:00:00Z", Some("x.org"), "named");
    }
}
