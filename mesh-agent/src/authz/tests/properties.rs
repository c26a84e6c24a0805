//! Compiled policies against the transcription of Istio's: the same for traffic that every server reads alike, and never more
//! open for any other.

use proptest::prelude::*;

use super::istio;
use super::*;

fn pattern(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    (prop::sample::select(words), 0..6_u8).prop_map(|(word, form)| match form {
        0 => format!("{}*", &word[..word.len() / 2]),
        1 => format!("*{}", &word[word.len() / 2..]),
        2 if word.len() > 3 => "*".to_owned(),
        _ => word.to_owned(),
    })
}

const IDENTITIES: &[&str] = &[
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/sa/cart",
    "cluster.local/ns/test/sa/web",
    "cluster.local/ns/test/sa/curl",
];
const HOSTS: &[&str] = &["cart", "cart.shop", "web.shop", "shop.example"];
const METHODS: &[&str] = &["GET", "POST", "PUT"];
const PATHS: &[&str] = &["/admin", "/admin/x", "/info", "/info/v1", "/info/v1/x", "/"];

fn path_pattern() -> impl Strategy<Value = String> {
    let templates =
        prop::sample::select(vec!["/{*}", "/{**}", "/info/{*}", "/{*}/v1", "/info/{**}", "/{**}/x"]);
    prop_oneof![3 => pattern(PATHS), 1 => templates.prop_map(str::to_owned)]
}

fn network() -> impl Strategy<Value = String> {
    let all = vec!["10.1.0.1", "10.1.0.0/24", "10.2.0.0/16", "0.0.0.0/0", "fd00::/8", "10.1.0.0/31"];
    prop::sample::select(all).prop_map(str::to_owned)
}

fn list(value: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(value, 1..3)
}

/// `NAME: [VALUES]` of one of a field's two lists.
fn field(names: [&'static str; 2], value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::sample::select(names.to_vec()), list(value))
        .prop_map(|(name, values)| format!("{name}: {values:?}"))
}

fn fields(all: Vec<BoxedStrategy<String>>) -> impl Strategy<Value = String> {
    let count = all.len();
    (prop::sample::subsequence((0..count).collect::<Vec<_>>(), 1..=2), all)
        .prop_map(|(chosen, all)| chosen.iter().map(|at| all[*at].clone()).collect::<Vec<_>>().join(", "))
}

fn source() -> impl Strategy<Value = String> {
    let namespaces = pattern(&["shop", "test", "other"]);
    let accounts = prop::sample::select(vec!["web", "shop/cart", "test/curl"]).prop_map(str::to_owned);
    let plain = fields(vec![
        field(["principals", "notPrincipals"], pattern(IDENTITIES)).boxed(),
        field(["namespaces", "notNamespaces"], namespaces).boxed(),
        field(["ipBlocks", "notIpBlocks"], network()).boxed(),
        field(["remoteIpBlocks", "notRemoteIpBlocks"], network()).boxed(),
        field(["requestPrincipals", "notRequestPrincipals"], pattern(&["iss/ann", "iss/bob"])).boxed(),
    ]);
    prop_oneof![4 => plain, 1 => field(["serviceAccounts", "notServiceAccounts"], accounts)]
        .prop_map(|fields| format!("{{source: {{{fields}}}}}"))
}

fn operation() -> impl Strategy<Value = String> {
    let ports = prop::sample::select(vec!["80", "8080"]).prop_map(str::to_owned);
    fields(vec![
        field(["hosts", "notHosts"], pattern(HOSTS)).boxed(),
        field(["ports", "notPorts"], ports).boxed(),
        field(["methods", "notMethods"], pattern(METHODS)).boxed(),
        field(["paths", "notPaths"], path_pattern()).boxed(),
        field(["paths", "notPaths"], path_pattern()).boxed(),
    ])
    .prop_filter("one list of a name", |fields| fields.matches("aths:").count() < 2)
    .prop_map(|fields| format!("{{operation: {{{fields}}}}}"))
}

fn condition() -> impl Strategy<Value = String> {
    let of = |key: &'static str, value: BoxedStrategy<String>| {
        field(["values", "notValues"], value)
            .prop_map(move |list| format!("{{key: {key:?}, {list}}}"))
            .boxed()
    };
    prop_oneof![
        of("request.headers[x-user]", pattern(&["ann", "bob"]).boxed()),
        of("source.ip", network().boxed()),
        of("remote.ip", network().boxed()),
        of("destination.ip", network().boxed()),
        of("destination.port", Just("8080".to_owned()).boxed()),
        of("source.namespace", pattern(&["shop", "test"]).boxed()),
        of("source.principal", pattern(IDENTITIES).boxed()),
        of("source.serviceAccount", Just("web".to_owned()).boxed()),
        of("request.auth.principal", pattern(&["iss/ann"]).boxed()),
        of("connection.sni", pattern(&["db.test"]).boxed()),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let some = |all: BoxedStrategy<String>| prop::collection::vec(all, 0..3);
    let parts = (some(source().boxed()), some(operation().boxed()), some(condition().boxed()));
    parts.prop_map(|(from, to, when)| {
        let part = |name: &str, items: Vec<String>| match items.is_empty() {
            true => String::new(),
            false => format!("{name}: [{}], ", items.join(", ")),
        };
        format!("{{{}{}{}}}", part("from", from), part("to", to), part("when", when))
    })
}

fn policies() -> impl Strategy<Value = Vec<String>> {
    let one = (any::<bool>(), prop::collection::vec(rule(), 1..4)).prop_map(|(deny, rules)| {
        format!("{{action: {}, rules: [{}]}}", if deny { "DENY" } else { "ALLOW" }, rules.join(", "))
    });
    prop::collection::vec(one, 0..5)
}

fn traffic(path: BoxedStrategy<String>, odd: bool) -> impl Strategy<Value = Traffic> {
    let hosts: Vec<&str> = match odd {
        true => vec!["cart", "Cart:80", "cart.shop.", "web.shop"],
        false => vec!["cart", "cart.shop", "web.shop", "x"],
    };
    let methods = if odd { vec!["GET", "get", "PosT"] } else { vec!["GET", "POST", "DELETE"] };
    let users: Vec<&[&str]> = match odd {
        true => vec![&[], &["x-user: ann"], &["x-user: ann", "x-user: bob"]],
        false => vec![&[], &["x-user: ann"], &["x-user: bob"]],
    };
    let head =
        (prop::sample::select(methods), path, prop::sample::select(hosts), prop::sample::select(users));
    let identity = prop::option::of(prop::sample::select(IDENTITIES));
    let addresses = prop::sample::select(vec!["10.1.0.1", "10.2.0.7", "fd00::1"]);
    let token = prop::option::of(prop::sample::select(vec!["ann", "bob"]));
    let sni = prop::option::of(Just("db.test".to_owned()));
    (any::<bool>(), head, identity, (addresses.clone(), addresses), token, sni).prop_map(
        |(is_request, (method, path, host, users), identity, (source, remote), token, sni)| {
            let mut traffic = match is_request {
                true => {
                    let host = format!("host: {host}");
                    let headers: Vec<&str> =
                        std::iter::once(host.as_str()).chain(users.iter().copied()).collect();
                    request(&format!("{method} {path}"), &headers)
                }
                false => Traffic { sni, ..Traffic::default() },
            };
            if let Some(subject) = token.filter(|_| is_request) {
                traffic = traffic.with_token(serde_json::json!({"iss": "iss", "sub": subject}));
            }
            traffic.identity = identity.map(|identity| format!("spiffe://{identity}"));
            (traffic.source, traffic.remote) = (source.to_owned(), remote.to_owned());
            traffic
        },
    )
}

fn plain_path() -> BoxedStrategy<String> {
    "(/(admin|info|v1|x|y)){1,3}".boxed()
}

fn odd_path() -> BoxedStrategy<String> {
    let piece = prop::sample::select(vec![
        "admin", "info", "v1", "x", "ADMIN", "/", "//", ".", "..", "%2f", "%2e", "%5c", ";", ";a=1", "%61",
        "%252f", "%20",
    ]);
    prop::collection::vec(piece, 0..7).prop_map(|pieces| format!("/{}", pieces.concat())).boxed()
}

fn both(specs: &[String], traffic: &Traffic) -> (bool, bool) {
    let policies: Vec<_> =
        specs.iter().enumerate().map(|(at, spec)| policy(&format!("p{at}"), spec)).collect();
    (traffic.is_denied(&compile(&policies)), istio::denies(&policies, traffic))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_all_read_alike_is_judged_as_istio_does(specs in policies(), traffic in traffic(plain_path(), false)) {
        let (ours, istios) = both(&specs, &traffic);
        prop_assert_eq!(ours, istios);
    }

    #[test]
    fn nothing_is_let_in_that_istio_denies(specs in policies(), traffic in traffic(odd_path(), true)) {
        let (ours, istios) = both(&specs, &traffic);
        prop_assert!(ours || !istios);
    }

    #[test]
    fn the_index_misses_no_rule(specs in policies(), traffic in traffic(odd_path(), true)) {
        let policies: Vec<_> = specs.iter().enumerate().map(|(at, spec)| policy(&format!("p{at}"), spec)).collect();
        let compiled = compile(&policies);
        let told = traffic.judged(|facts| {
            let considered = compiled.explain(facts);
            let fits = |action| considered.iter().any(|one| one.rule.action == action && one.fits);
            (compiled.judge(facts).verdict.is_denied(), fits(crate::objects::Action::Deny), fits(crate::objects::Action::Allow))
        });
        if let Some((denied, by_deny, by_allow)) = told {
            prop_assert!(denied || !by_deny);
            prop_assert!(denied || by_allow || !compiled.allows_by_rule());
            if traffic.head.is_none() {
                prop_assert_eq!(denied, by_deny || compiled.allows_by_rule() && !by_allow);
            }
        }
    }
}
