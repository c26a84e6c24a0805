//! Who may ask for what. Pure, but for the random words.
//!
//! The admin socket is its owner's only, and a port on the loopback is everybody's on this machine and every web page's in this
//! browser. So all of it lies below a random path; the agent is asked only for a cookie that a random token in the printed address
//! is exchanged for; and a browser has to say that it is this page that asks. Cookies don't know ports: one that is bound to the random
//! path isn't sent to whatever else listens on the loopback.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::cli::{Exit, Failure};

/// Of the cookie.
const NAME: &str = "mesh-agent";
/// What the agent may be asked, and the fields that a question may have.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("/v1/certificates", &[]),
    ("/v1/connections", &[]),
    ("/v1/endpoints", &[]),
    (FLOWS, &["follow", "last"]),
    ("/v1/live/edges", &["window"]),
    ("/v1/live/history", &["window"]),
    ("/v1/live/routes", &["window"]),
    ("/v1/policies", &[]),
    ("/v1/routes", &[]),
    ("/v1/services", &[]),
    ("/v1/status", &[]),
    ("/v1/warnings", &[]),
    ("/v1/workloads", &[]),
];
/// Answered for as long as something happens.
const FLOWS: &str = "/v1/flows";

/// The random words of one run, and the port.
pub(super) struct Gate {
    port: u16,
    /// The page lies below it.
    place: String,
    /// In the printed address.
    token: String,
    /// In the cookie.
    key: String,
}

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The token was right: a cookie, and the page's own address.
    Enter,
    /// A file of the page, which is no secret.
    File(String),
    /// What this command knows itself.
    About,
    /// A question to the agent.
    Ask(String),
    /// The same, answered bit by bit.
    Follow(String),
    /// Nothing of this.
    Refuse(StatusCode, &'static str),
}

impl Gate {
    /// For a server at `port`.
    pub(super) fn new(port: u16) -> Result<Self, Failure> {
        Ok(Self { port, place: word::<9>()?, token: word::<24>()?, key: word::<24>()? })
    }

    /// The address to open.
    pub(super) fn entrance(&self) -> String {
        format!("http://127.0.0.1:{}{}?token={}", self.port, self.page(), self.token)
    }

    /// Path of the page.
    pub(super) fn page(&self) -> String {
        format!("/{}/", self.place)
    }

    /// The cookie's header. Scripts don't see it, other sites don't make the browser send it.
    pub(super) fn cookie(&self) -> String {
        format!("{NAME}={}; Path={}; HttpOnly; SameSite=Strict", self.key, self.page())
    }

    /// Judges a request by its head.
    pub(super) fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        use Verdict::{About, Ask, Enter, File, Follow, Refuse};
        if !self.is_own_name(headers) {
            return Refuse(StatusCode::MISDIRECTED_REQUEST, "this server has no such name");
        }
        if *method != Method::GET {
            return Refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET: this page changes nothing");
        }
        let Some(path) = self.below(uri.path()) else {
            return Refuse(StatusCode::NOT_FOUND, "nothing is here");
        };
        if path.is_empty()
            && let Some(token) = field(uri, "token")
        {
            let is_right = same(token, &self.token);
            return if is_right { Enter } else { Refuse(StatusCode::FORBIDDEN, "this token isn't right") };
        }
        if path != "about" && !path.starts_with("v1/") {
            return File(path.to_owned());
        }
        if let Some(refusal) = self.refusal(headers) {
            return refusal;
        }
        match (path, question(path, uri.query())) {
            ("about", _) => About,
            (_, Ok(question)) if question.split('?').next() == Some(FLOWS) => Follow(question),
            (_, Ok(question)) => Ask(question),
            (_, Err(refusal)) => refusal,
        }
    }

    /// Why the agent isn't asked for whoever sent this.
    fn refusal(&self, headers: &HeaderMap) -> Option<Verdict> {
        let site = headers.get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin") {
            return Some(Verdict::Refuse(StatusCode::FORBIDDEN, "another page asks"));
        }
        let has_key = cookies(headers).any(|(name, value)| name == NAME && same(value, &self.key));
        (!has_key).then_some(Verdict::Refuse(
            StatusCode::UNAUTHORIZED,
            "open the address that `mesh-agent dashboard` has printed",
        ))
    }

    /// A name that leads here is another site's, which wants its pages to be this one (DNS rebinding).
    fn is_own_name(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        ["127.0.0.1", "localhost"]
            .iter()
            .any(|name| host.as_bytes() == format!("{name}:{}", self.port).as_bytes())
    }

    fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (place, rest) = path.strip_prefix('/')?.split_once('/')?;
        same(place, &self.place).then_some(rest)
    }
}

/// The agent's path and query, if that may be asked.
fn question(path: &str, query: Option<&str>) -> Result<String, Verdict> {
    let found = QUESTIONS.iter().find(|(question, _)| question.strip_prefix('/') == Some(path));
    let Some((question, fields)) = found else {
        return Err(Verdict::Refuse(StatusCode::NOT_FOUND, "the page doesn't ask this"));
    };
    let query = query.unwrap_or_default();
    let is_plain = |value: &str| value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
    let is_known = pairs.all(|pair| {
        pair.split_once('=').is_some_and(|(name, value)| fields.contains(&name) && is_plain(value))
    });
    match (is_known, query.is_empty()) {
        (false, _) => Err(Verdict::Refuse(StatusCode::BAD_REQUEST, "the page doesn't ask it so")),
        (true, true) => Ok((*question).to_owned()),
        (true, false) => Ok(format!("{question}?{query}")),
    }
}

fn field<'u>(uri: &'u Uri, wanted: &str) -> Option<&'u str> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Takes as long whatever differs.
fn same(a: &str, b: &str) -> bool {
    verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

fn word<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| Failure::message(Exit::Failed, "there is no randomness"))?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OWN: (&str, &str) = ("host", "127.0.0.1:4000");

    fn gate() -> Gate {
        Gate { port: 4000, place: "place".into(), token: "token".into(), key: "key".into() }
    }

    fn judge(method: &str, uri: &str, headers: &[(&'static str, &str)]) -> Verdict {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        gate().judge(&method.parse().unwrap(), &uri.parse().unwrap(), &headers.collect())
    }

    fn status(method: &str, uri: &str, headers: &[(&'static str, &str)]) -> u16 {
        match judge(method, uri, headers) {
            Verdict::Refuse(status, _) => status.as_u16(),
            _ => 200,
        }
    }

    #[test]
    fn the_token_lets_in_and_nothing_like_it() {
        assert_eq!(gate().entrance(), "http://127.0.0.1:4000/place/?token=token");
        assert_eq!(judge("GET", "/place/?token=token", &[OWN]), Verdict::Enter);
        for wrong in ["", "toke", "tokens", "TOKEN"] {
            assert_eq!(status("GET", &format!("/place/?token={wrong}"), &[OWN]), 403, "{wrong}");
        }
        assert_eq!(status("GET", "/?token=token", &[OWN]), 404);
    }

    #[test]
    fn the_agent_is_asked_for_the_cookie_alone() {
        let key = ("cookie", "other=1; mesh-agent=key");
        assert_eq!(judge("GET", "/place/v1/status", &[OWN, key]), Verdict::Ask("/v1/status".into()));
        assert_eq!(judge("GET", "/place/about", &[OWN, key]), Verdict::About);
        for path in ["/place/v1/status", "/place/about", "/place/v1/nothing"] {
            assert_eq!(status("GET", path, &[OWN]), 401, "{path}");
            assert_eq!(status("GET", path, &[OWN, ("cookie", "mesh-agent=token")]), 401, "{path}");
        }
        // Nor where another page makes the browser ask.
        for site in ["cross-site", "same-site", "none"] {
            assert_eq!(
                status("GET", "/place/v1/status", &[OWN, key, ("sec-fetch-site", site)]),
                403,
                "{site}"
            );
        }
        let own_page = ("sec-fetch-site", "same-origin");
        assert_eq!(status("GET", "/place/v1/status", &[OWN, key, own_page]), 200);
    }

    #[test]
    fn files_are_no_secret_where_the_page_is_and_nothing_is_elsewhere() {
        assert_eq!(judge("GET", "/place/", &[OWN]), Verdict::File(String::new()));
        assert_eq!(judge("GET", "/place/vendor/dagre.js", &[OWN]), Verdict::File("vendor/dagre.js".into()));
        for path in ["/", "/place", "/main.js", "/v1/status", "/about", "/plac/", "/places/v1/status"] {
            assert_eq!(status("GET", path, &[OWN, ("cookie", "mesh-agent=key")]), 404, "{path}");
        }
    }

    #[test]
    fn nothing_is_changed() {
        let key = ("cookie", "mesh-agent=key");
        for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"] {
            assert_eq!(status(method, "/place/v1/status", &[OWN, key]), 405, "{method}");
        }
        for path in
            ["v1/drain", "v1/log", "v1/config", "v1/config/rollback", "v1/bpf", "v1/../v1/log", "v1//status"]
        {
            assert_eq!(status("GET", &format!("/place/{path}"), &[OWN, key]), 404, "{path}");
        }
    }

    #[test]
    fn a_name_that_is_not_its_own_is_refused() {
        assert_eq!(status("GET", "/place/", &[("host", "localhost:4000")]), 200);
        for host in [
            "127.0.0.1",
            "127.0.0.1:4001",
            "evil.example:4000",
            "127.0.0.1:4000.evil.example",
            "[::1]:4000",
            "",
        ] {
            assert_eq!(status("GET", "/place/?token=token", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(status("GET", "/place/", &[]), 421);
        assert_eq!(status("GET", "/place/", &[OWN, OWN]), 421);
    }

    #[test]
    fn a_question_has_the_fields_that_it_may_have() {
        let ask = |path: &str| judge("GET", &format!("/place/{path}"), &[OWN, ("cookie", "mesh-agent=key")]);
        assert_eq!(ask("v1/live/edges?window=60"), Verdict::Ask("/v1/live/edges?window=60".into()));
        assert_eq!(
            ask("v1/flows?follow=true&last=50"),
            Verdict::Follow("/v1/flows?follow=true&last=50".into())
        );
        for wrong in [
            "v1/live/edges?wind=60",
            "v1/status?window=60",
            "v1/live/edges?window",
            "v1/live/edges?window=%2e",
        ] {
            assert!(matches!(ask(wrong), Verdict::Refuse(StatusCode::BAD_REQUEST, _)), "{wrong}");
        }
    }

    #[test]
    fn each_run_has_words_of_its_own() {
        let (one, other) = (Gate::new(1).unwrap(), Gate::new(1).unwrap());
        let words = [&one.place, &one.token, &one.key, &other.place, &other.token, &other.key];
        let different: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(different.len(), 6);
        assert!(one.token.len() >= 32 && one.key.len() >= 32 && one.place.len() >= 12);
    }
}
