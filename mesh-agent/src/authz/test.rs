//! One test of a rule: a field of the traffic, what it has to be and what it may not be.
//!
//! Where servers read a value in more than one way (hosts with ports, methods in other cases, headers sent twice), the side
//! that closes fits widely and the side that opens exactly as Istio: `is` of a DENY and `not` of an ALLOW are wide.

use http::HeaderName;
use serde_json::{Map, Value};

use super::facts::{Facts, RequestFacts};
use super::network::Networks;
use super::path::{Kind, Reading};
use super::pattern::Patterns;
use super::template::Template;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `principals`, `source.principal`.
    Principal,
    /// `namespaces`, `source.namespace`.
    Namespace,
    /// `serviceAccounts`, `source.serviceAccount`.
    Account,
    /// `ipBlocks`, `source.ip`.
    Source,
    /// `remoteIpBlocks`, `remote.ip`.
    Remote,
    /// `destination.ip`.
    Destination,
    /// `ports`, `destination.port`.
    Port,
    /// `connection.sni`.
    Sni,
    /// `requestPrincipals`, `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`.
    Presenter,
    /// `request.auth.claims`.
    Claims(Vec<String>),
    /// `request.headers`.
    Header(HeaderName),
    /// `hosts`.
    Host,
    /// `methods`.
    Method,
    /// `paths`.
    Path,
}

impl Field {
    /// True if only requests have it.
    pub const fn is_http(&self) -> bool {
        matches!(
            self,
            Self::RequestPrincipal
                | Self::Audiences
                | Self::Presenter
                | Self::Claims(_)
                | Self::Header(_)
                | Self::Host
                | Self::Method
                | Self::Path
        )
    }

    /// True if nothing is known of it before the client has said something.
    pub const fn comes_later(&self) -> bool {
        self.is_http() || matches!(self, Self::Sni)
    }
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Texts; other forms of namespaces apart.
    Texts(Patterns, Box<[Glob]>),
    /// Ranges.
    Networks(Networks),
    /// Ports, sorted.
    Ports(Box<[u16]>),
    /// Paths.
    Paths(Box<Paths>),
    /// Principals of tokens.
    Tokens(Box<[Token]>),
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Of what.
    pub field: Field,
    /// It is one of these.
    pub is: Option<Values>,
    /// It is none of these.
    pub not: Option<Values>,
    /// `is` fits widely, else `not` does.
    pub wide: bool,
}

impl Test {
    /// True if it holds. `reading` is the path's that is judged now.
    pub(super) fn holds(&self, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> bool {
        let fits = |values: &Values, wide: bool| self.field.fits(values, facts, reading, wide);
        self.is.as_ref().is_none_or(|is| fits(is, self.wide))
            && !self.not.as_ref().is_some_and(|not| fits(not, !self.wide))
    }
}

impl Field {
    fn fits(&self, values: &Values, facts: &Facts<'_>, reading: Option<Reading<'_>>, wide: bool) -> bool {
        let principal = facts.principal.as_ref();
        match (self, values) {
            (Self::Principal, Values::Texts(texts, _)) => {
                principal.is_some_and(|principal| texts.fit_some(principal.all.as_bytes()))
            }
            (Self::Namespace, Values::Texts(texts, globs)) => {
                let namespace = principal.and_then(|principal| principal.namespace);
                namespace.is_some_and(|namespace| {
                    texts.fit_some(namespace.as_bytes()) || globs.iter().any(|glob| glob.fits(namespace))
                })
            }
            (Self::Account, Values::Texts(texts, _)) => {
                let account = principal.and_then(|principal| principal.account);
                account.is_some_and(|account| texts.fit_some(account.as_bytes()))
            }
            (Self::Source, Values::Networks(networks)) => networks.has(facts.source),
            (Self::Remote, Values::Networks(networks)) => networks.has(facts.remote()),
            (Self::Destination, Values::Networks(networks)) => networks.has(facts.destination.0),
            (Self::Port, Values::Ports(ports)) => ports.binary_search(&facts.destination.1).is_ok(),
            (Self::Sni, Values::Texts(texts, _)) => {
                facts.sni.is_some_and(|sni| texts.fit_some(sni.as_bytes()))
            }
            (Self::Path, Values::Paths(paths)) => reading.is_some_and(|reading| paths.fit(reading)),
            (_, values) => {
                facts.request.as_ref().is_some_and(|request| self.fits_request(values, request, wide))
            }
        }
    }

    fn fits_request(&self, values: &Values, request: &RequestFacts<'_>, wide: bool) -> bool {
        match (self, values) {
            (Self::Host, Values::Texts(texts, _)) => {
                request.host.is_some_and(|host| host_fits(texts, host, wide))
            }
            (Self::Method, Values::Texts(texts, _)) => method_fits(texts, request.method, wide),
            (Self::Header(name), Values::Texts(texts, _)) => header_fits(texts, name, request, wide),
            (Self::RequestPrincipal, Values::Tokens(tokens)) => {
                let Some(claims) = request.claims else { return false };
                let said = |name| claims.all.get(name).and_then(Value::as_str);
                let (Some(issuer), Some(subject)) = (said("iss"), said("sub")) else { return false };
                tokens.iter().any(|token| token.fits(issuer, subject))
            }
            (Self::Audiences, Values::Texts(texts, _)) => {
                let audiences = request.claims.map(|claims| claims.audiences.as_slice()).unwrap_or_default();
                audiences.iter().any(|audience| texts.fit_some(audience.as_bytes()))
            }
            (Self::Presenter, Values::Texts(texts, _)) => {
                let presenter = request.claims.map(|claims| claims.presenter.as_str()).unwrap_or_default();
                !presenter.is_empty() && texts.fit_some(presenter.as_bytes())
            }
            (Self::Claims(path), Values::Texts(texts, _)) => {
                request.claims.is_some_and(|claims| claim_fits(texts, &claims.all, path))
            }
            // Fields and values are made together.
            _ => false,
        }
    }
}

/// Longer than any host name with a port.
const MOST_HOST: usize = 512;

/// Patterns are in lower case.
fn host_fits(texts: &Patterns, host: &str, wide: bool) -> bool {
    let mut lower = [0; MOST_HOST];
    let Some(lower) = lower.get_mut(..host.len()) else {
        // No name is so long: what closes closes.
        return wide;
    };
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    texts.fit(lower) || wide && texts.fit(bare(lower))
}

/// A host without its port and the dot of the root.
pub(super) fn bare(host: &[u8]) -> &[u8] {
    let name = match host.iter().rposition(|b| *b == b':') {
        Some(at) if host[at + 1..].iter().all(u8::is_ascii_digit) => &host[..at],
        _ => host,
    };
    name.strip_suffix(b".").unwrap_or(name)
}

/// The longest method that is compared in other cases.
pub(super) const MOST_METHOD: usize = 32;

fn method_fits(texts: &Patterns, method: &str, wide: bool) -> bool {
    let mut upper = [0; MOST_METHOD];
    if texts.fit(method.as_bytes()) {
        return true;
    }
    let Some(upper) = upper.get_mut(..method.len()).filter(|_| wide) else { return false };
    upper.copy_from_slice(method.as_bytes());
    upper.make_ascii_uppercase();
    texts.fit(upper)
}

/// Lines of one name are one value, with commas between them (Envoy).
fn header_fits(texts: &Patterns, name: &HeaderName, request: &RequestFacts<'_>, wide: bool) -> bool {
    let mut lines = request.headers.get_all(name).iter();
    let Some(first) = lines.next() else { return false };
    if lines.next().is_none() {
        return texts.fit(first.as_bytes());
    }
    let lines = request.headers.get_all(name);
    if wide && lines.iter().any(|line| texts.fit(line.as_bytes())) {
        return true;
    }
    let all: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    texts.fit(&all.join(&b","[..]))
}

/// A text, or a list with one that fits.
fn claim_fits(texts: &Patterns, all: &Map<String, Value>, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let found = rest.iter().try_fold(all.get(first), |value, name| Some(value?.as_object()?.get(name)));
    let fits = |value: &Value| value.as_str().is_some_and(|text| texts.fit_some(text.as_bytes()));
    match found.flatten() {
        Some(Value::Array(items)) => items.iter().any(fits),
        Some(value) => fits(value),
        None => false,
    }
}

/// A namespace with stars elsewhere than at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<[Box<str>]>);

impl Glob {
    /// None if a pattern does.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('*').collect();
        let plain = parts.len() < 2 || parts.len() == 2 && parts.iter().any(|part| part.is_empty());
        (!plain).then(|| Self(parts.into_iter().map(Into::into).collect()))
    }

    fn fits(&self, text: &str) -> bool {
        let Some((last, parts)) = self.0.split_last() else { return false };
        let Some((first, middle)) = parts.split_first() else { return text == &**last };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for part in middle {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }
}

/// A principal of a token: issuer and subject (Istio, `requestPrincipalGenerator`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    issuer: Patterns,
    subject: Patterns,
}

impl Token {
    /// The subject is what follows the last slash: an issuer may be a URL.
    pub fn parse(value: &str) -> Self {
        let exact = |text: &str| Patterns::new([super::pattern::Pattern::Exact(text.as_bytes().into())]);
        let any = || Patterns::parse(&["*".to_owned()]);
        let pattern = |text: &str| Patterns::parse(&[text.to_owned()]);
        let (issuer, subject) = match value.rsplit_once('/') {
            _ if value == "*" => (any(), any()),
            Some((issuer, subject)) if value.starts_with('*') => (pattern(issuer), exact(subject)),
            None if value.starts_with('*') => (any(), pattern(value)),
            Some((issuer, subject)) if value.ends_with('*') => (exact(issuer), pattern(subject)),
            None if value.ends_with('*') => (pattern(value), any()),
            Some((issuer, subject)) => (exact(issuer), exact(subject)),
            None => (exact(value), exact("")),
        };
        Self { issuer, subject }
    }

    fn fits(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.fit_some(issuer.as_bytes()) && self.subject.fit_some(subject.as_bytes())
    }
}

/// Paths, in the form for each kind of reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Paths {
    plain: PathForm,
    /// By kind, then by case; None where it is as `plain`.
    others: [[Option<PathForm>; 2]; 3],
}

#[derive(Clone, Debug, Default, PartialEq)]
struct PathForm {
    patterns: Patterns,
    templates: Box<[Template]>,
}

impl Paths {
    /// Of texts that validation has taken.
    pub fn parse(values: &[String]) -> Self {
        let form = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
            let (templates, plain): (Vec<&String>, Vec<_>) =
                values.iter().partition(|value| Template::is_one(value));
            let patterns = plain.iter().map(|value| super::pattern::Pattern::parse(value).map(change));
            let templates = templates.iter().map(|value| Template::parse(value).map(change)).collect();
            PathForm { patterns: Patterns::new(patterns), templates }
        };
        let plain = form(&|text| text.to_vec());
        let undo = |kind: usize, text: &[u8]| {
            let mut text = text.to_vec();
            if kind > 0 {
                while super::path::decode(&mut text) {}
            }
            if kind > 1 {
                super::path::strip_parameters(&mut text);
            }
            text
        };
        let others = std::array::from_fn(|kind| {
            let exact = form(&|text| undo(kind, text));
            let folded = form(&|text| undo(kind, text).to_ascii_lowercase());
            [exact, folded].map(|form| (form != plain).then_some(form))
        });
        Self { plain, others }
    }

    fn fit(&self, reading: Reading<'_>) -> bool {
        let form = self.others[reading.kind as usize][usize::from(reading.folded)].as_ref();
        let form = form.unwrap_or(&self.plain);
        let strictly = reading.kind == Kind::Istio && !reading.folded;
        form.patterns.fit_some(reading.text)
            || form.templates.iter().any(|template| template.fits(reading.text, strictly))
    }

    /// Patterns in lower case by which an index finds it; None if there may be others that fit.
    pub(super) fn keys(&self) -> Option<Vec<super::pattern::Pattern>> {
        let form = self.others[0][1].as_ref().unwrap_or(&self.plain);
        let beginnings =
            form.templates.iter().map(|it| super::pattern::Pattern::Prefix(it.beginning().into()));
        let keys: Vec<_> = form.patterns.iter().chain(beginnings).collect();
        // What a reading undoes in a pattern, it has undone in the path too, which an index doesn't know.
        let undone = self.others[1].iter().chain(&self.others[2]);
        let same = undone.flatten().all(|other| Some(other) == self.others[0][1].as_ref());
        same.then_some(keys)
    }
}
