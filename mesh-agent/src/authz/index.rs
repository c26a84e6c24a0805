//! Which of a table's rules may fit: found by what the traffic is, not by going through them.
//!
//! Every rule is noted under the values of one of its parts (one alternative after the other of `from` or `to`, or a
//! condition): the one that the fewest rules share. What can't be noted so is looked at each time. Whether a rule fits is for
//! the rule to say; no rule that fits is missed.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use http::HeaderName;

use super::facts::Facts;
use super::network::{NetworkIndex, NetworkKey};
use super::path::Reading;
use super::pattern::Pattern;
use super::prefixes::Prefixes;
use super::rule::{Rule, Tests};
use super::test::{Field, MOST_METHOD, Test, Values, bare};

/// Rules by what they ask for.
#[derive(Debug, Default)]
pub struct Index {
    texts: Box<[(TextField, TextIndex)]>,
    source: NetworkIndex,
    remote: NetworkIndex,
    destination: NetworkIndex,
    ports: HashMap<u16, Box<[u32]>, FixedState>,
    /// Noted under nothing.
    others: Box<[u32]>,
}

/// Fields with texts that rules are found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TextField {
    Principal,
    Account,
    Namespace,
    Path,
    Host,
    Method,
    Header(HeaderName),
}

/// Fields with addresses that rules are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AddressField {
    Source,
    Remote,
    Destination,
}

/// One value that a rule is noted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(TextField, Pattern),
    Address(AddressField, NetworkKey),
    Port(u16),
}

/// Keys of one test; a rule that is noted under all of them is found where the test holds.
type Keys = Vec<Key>;

impl Index {
    /// Of all rules of a table.
    pub fn new(rules: &[Rule]) -> Self {
        let groups: Vec<Vec<Group>> = rules.iter().map(groups).collect();
        let mut shared: HashMap<&Key, u64> = HashMap::new();
        for key in groups.iter().flatten().flat_map(|group| group.0.iter().flatten().flatten()) {
            *shared.entry(key).or_default() += 1;
        }
        let cost = |keys: &Keys| keys.iter().map(|key| shared[key]).sum::<u64>();
        let mut noted = Noted::default();
        for (at, groups) in (0..).zip(&groups) {
            let cheapest = groups.iter().map(|group| group.keys(cost)).min_by_key(cost);
            match cheapest {
                Some(keys) => keys.into_iter().for_each(|key| noted.add(key, at)),
                None => noted.others.push(at),
            }
        }
        noted.index()
    }

    /// Tells of every rule that may fit, some of them more than once.
    pub fn find(&self, facts: &Facts<'_>, reading: Option<Reading<'_>>, tell: &mut impl FnMut(u32)) {
        self.others.iter().for_each(|at| tell(*at));
        for (field, index) in &self.texts {
            index.find_by(field, facts, reading, tell);
        }
        if !self.source.is_empty() {
            self.source.find(facts.source, tell);
        }
        if !self.remote.is_empty() {
            self.remote.find(facts.remote(), tell);
        }
        if !self.destination.is_empty() {
            self.destination.find(facts.destination.0, tell);
        }
        if let Some(rules) = self.ports.get(&facts.destination.1) {
            rules.iter().for_each(|at| tell(*at));
        }
    }
}

/// A part of a rule of which one alternative has to hold: for each alternative the tests that rules can be found by.
struct Group(Vec<Vec<Keys>>);

impl Group {
    /// Of each alternative the test that the fewest rules share.
    fn keys(&self, cost: impl Fn(&Keys) -> u64) -> Keys {
        let cheapest = |tests: &Vec<Keys>| tests.iter().min_by_key(|keys| cost(keys)).cloned();
        self.0.iter().filter_map(cheapest).flatten().collect()
    }
}

/// The parts by which a rule is found for certain.
fn groups(rule: &Rule) -> Vec<Group> {
    let of_tests = |tests: &Tests| tests.iter().filter_map(keys).collect::<Vec<_>>();
    let of_part = |part: &[Tests]| Group(part.iter().map(of_tests).collect());
    let conditions = rule.when.iter().filter_map(keys).map(|keys| Group(vec![vec![keys]]));
    let parts = [of_part(&rule.from), of_part(&rule.to)].into_iter().chain(conditions);
    parts.filter(|group| !group.0.is_empty() && group.0.iter().all(|tests| !tests.is_empty())).collect()
}

/// None for tests that rules aren't found by.
fn keys(test: &Test) -> Option<Keys> {
    let texts = |field: TextField, patterns: Vec<Pattern>| {
        patterns.into_iter().map(|pattern| Key::Text(field.clone(), pattern)).collect()
    };
    let addresses = |field: AddressField, networks: &super::Networks| {
        networks.iter().map(|network| Key::Address(field, network)).collect()
    };
    let upper = |pattern: Pattern| pattern.map(<[u8]>::to_ascii_uppercase);
    Some(match (&test.field, test.is.as_ref()?) {
        (Field::Principal, Values::Texts(patterns, _)) => {
            texts(TextField::Principal, patterns.iter().collect())
        }
        (Field::Account, Values::Texts(patterns, _)) => texts(TextField::Account, patterns.iter().collect()),
        (Field::Namespace, Values::Texts(patterns, globs)) if globs.is_empty() => {
            texts(TextField::Namespace, patterns.iter().collect())
        }
        (Field::Host, Values::Texts(patterns, _)) => texts(TextField::Host, patterns.iter().collect()),
        (Field::Method, Values::Texts(patterns, _)) => {
            texts(TextField::Method, patterns.iter().map(upper).collect())
        }
        (Field::Header(name), Values::Texts(patterns, _)) => {
            texts(TextField::Header(name.clone()), patterns.iter().collect())
        }
        (Field::Path, Values::Paths(paths)) => texts(TextField::Path, paths.keys()?),
        (Field::Source, Values::Networks(networks)) => addresses(AddressField::Source, networks),
        (Field::Remote, Values::Networks(networks)) => addresses(AddressField::Remote, networks),
        (Field::Destination, Values::Networks(networks)) => addresses(AddressField::Destination, networks),
        (Field::Port, Values::Ports(ports)) => ports.iter().copied().map(Key::Port).collect(),
        _ => return None,
    })
}

/// What an index is made of.
#[derive(Default)]
struct Noted {
    texts: HashMap<TextField, HashMap<Pattern, Vec<u32>>>,
    addresses: HashMap<AddressField, BTreeMap<NetworkKey, Vec<u32>>>,
    ports: HashMap<u16, Vec<u32>>,
    others: Vec<u32>,
}

impl Noted {
    fn add(&mut self, key: Key, at: u32) {
        let rules = match key {
            Key::Text(field, pattern) => self.texts.entry(field).or_default().entry(pattern).or_default(),
            Key::Address(field, network) => {
                self.addresses.entry(field).or_default().entry(network).or_default()
            }
            Key::Port(port) => self.ports.entry(port).or_default(),
        };
        if rules.last() != Some(&at) {
            rules.push(at);
        }
    }

    fn index(mut self) -> Index {
        let mut addresses = |field| NetworkIndex::new(self.addresses.remove(&field).unwrap_or_default());
        Index {
            source: addresses(AddressField::Source),
            remote: addresses(AddressField::Remote),
            destination: addresses(AddressField::Destination),
            texts: self.texts.into_iter().map(|(field, found)| (field, TextIndex::new(found))).collect(),
            ports: self.ports.into_iter().map(|(port, rules)| (port, rules.into())).collect(),
            others: self.others.into(),
        }
    }
}

/// Rules by patterns of one field.
#[derive(Debug, Default)]
struct TextIndex {
    exact: HashMap<Box<[u8]>, Box<[u32]>, FixedState>,
    prefixes: Prefixes,
    suffixes: Prefixes,
    present: Box<[u32]>,
}

impl TextIndex {
    fn new(found: HashMap<Pattern, Vec<u32>>) -> Self {
        let mut index = Self::default();
        let (mut prefixes, mut suffixes) = (Vec::new(), Vec::new());
        for (pattern, rules) in found {
            match pattern {
                Pattern::Present => index.present = rules.into(),
                Pattern::Exact(text) => {
                    index.exact.insert(text, rules.into());
                }
                Pattern::Prefix(text) => prefixes.push((text, rules)),
                Pattern::Suffix(text) => suffixes.push((text, rules)),
            }
        }
        Self { prefixes: Prefixes::new(prefixes, false), suffixes: Prefixes::new(suffixes, true), ..index }
    }

    fn find(&self, value: &[u8], tell: &mut impl FnMut(u32)) {
        self.present.iter().for_each(|at| tell(*at));
        self.find_text(value, tell);
    }

    fn find_text(&self, value: &[u8], tell: &mut impl FnMut(u32)) {
        if let Some(rules) = self.exact.get(value) {
            rules.iter().for_each(|at| tell(*at));
        }
        if !self.prefixes.is_empty() {
            self.prefixes.find(value, tell);
        }
        if !self.suffixes.is_empty() {
            self.suffixes.find(value, tell);
        }
    }

    /// Everything, for what there is no look-up for.
    fn all(&self, tell: &mut impl FnMut(u32)) {
        self.present.iter().chain(self.exact.values().flatten()).for_each(|at| tell(*at));
        self.prefixes.all(tell);
        self.suffixes.all(tell);
    }

    fn find_by(
        &self,
        field: &TextField,
        facts: &Facts<'_>,
        reading: Option<Reading<'_>>,
        tell: &mut impl FnMut(u32),
    ) {
        let principal = facts.principal.as_ref();
        let request = facts.request.as_ref();
        let text = match field {
            TextField::Principal => principal.map(|principal| principal.all.as_bytes()),
            TextField::Account => principal.and_then(|principal| principal.account).map(str::as_bytes),
            TextField::Namespace => principal.and_then(|principal| principal.namespace).map(str::as_bytes),
            TextField::Path => reading.map(|reading| reading.lower),
            TextField::Host => return request.iter().for_each(|request| self.find_host(request.host, tell)),
            TextField::Method => {
                return request.iter().for_each(|request| self.find_method(request.method, tell));
            }
            TextField::Header(name) => {
                let mut lines = request.iter().flat_map(|request| request.headers.get_all(name).iter());
                match (lines.next(), lines.next()) {
                    (Some(_), Some(_)) => return self.all(tell),
                    (line, _) => line.map(|line| line.as_bytes()),
                }
            }
        };
        if let Some(text) = text {
            self.find(text, tell);
        }
    }

    /// As it was sent, and as those read it that fit widely.
    fn find_host(&self, host: Option<&str>, tell: &mut impl FnMut(u32)) {
        let Some(host) = host else { return };
        let mut lower = [0; 512];
        let Some(lower) = lower.get_mut(..host.len()) else { return self.all(tell) };
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        self.find(lower, tell);
        let name = bare(lower);
        if name.len() < lower.len() {
            self.find_text(name, tell);
        }
    }

    fn find_method(&self, method: &str, tell: &mut impl FnMut(u32)) {
        let mut upper = [0; MOST_METHOD];
        let Some(upper) = upper.get_mut(..method.len()) else { return self.all(tell) };
        upper.copy_from_slice(method.as_bytes());
        upper.make_ascii_uppercase();
        self.find(upper, tell);
    }
}
