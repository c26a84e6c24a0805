//! Attacks on paths: no spelling of a path gets past a policy that names the plain one.

use super::*;

/// Spellings that some server takes for `/admin/x`.
pub const SPELLINGS: &[&str] = &[
    "/admin/x",
    "/admin%2fx",
    "/admin%2Fx",
    "/admin%5cx",
    "/admin%5Cx",
    "/admin\\x",
    "//admin/x",
    "///admin///x",
    "/admin//x",
    "/./admin/x",
    "/admin/./x",
    "/a/../admin/x",
    "/../admin/x",
    "/a/b/../../admin/x",
    "/a/%2e%2e/admin/x",
    "/a/%2E%2E/admin/x",
    "/a/.%2e/admin/x",
    "/a%2f..%2fadmin/x",
    "/a/..%2fadmin/x",
    "/a/..%5cadmin/x",
    "/a/..\\admin/x",
    "/a//../admin/x",
    "/a/..;/admin/x",
    "/a/..;v=1/admin/x",
    "/;v=1/admin/x",
    "/admin;v=1/x",
    "/admin;/x",
    "/admin/x;jsessionid=1",
    "/admin/x;a=1;b=2",
    "/%61dmin/x",
    "/%61%64%6d%69%6e/x",
    "/admi%6E/x",
    "/%2561dmin/x",
    "/admin%252fx",
    "/admin%25252fx",
    "/a/%252e%252e/admin/x",
    "/ADMIN/x",
    "/Admin/X",
    "/%41dmin/x",
    "/admin%u002fx",
    "/admin%c0%afx",
    "/a/%c0%ae%c0%ae/admin/x",
    "/admin/x%3bv=1",
    "/admin/x?y=/public",
    "/admin%2f%2e%2fx",
    "/public/..%2fadmin%2fx",
    "/public/..;/admin/x",
    "/public%2f..%2fadmin/x",
    "/admin%00/x",
];

fn denied(spec: &str, path: &str) -> bool {
    request(&format!("GET {path}"), &[]).is_denied(&compile(&[policy("p", spec)]))
}

#[test]
fn no_spelling_gets_past_a_deny_of_the_plain_path() {
    for path in SPELLINGS {
        for pattern in ["/admin/x", "/admin*", "/admin/*", "*/x", "/admin/{*}", "/{**}/x", "/admin/{**}"] {
            let spec =
                format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: [{pattern:?}]}}}}]}}]}}");
            assert!(denied(&spec, path), "{pattern} {path}");
        }
        let all_but = "{action: DENY, rules: [{to: [{operation: {notPaths: [\"/public*\"]}}]}]}";
        assert!(denied(all_but, path), "{path}");
    }
}

#[test]
fn no_spelling_gets_past_an_allow_that_leaves_the_plain_path_out() {
    for path in SPELLINGS {
        for spec in [
            "{rules: [{to: [{operation: {notPaths: [/admin/x]}}]}]}",
            "{rules: [{to: [{operation: {notPaths: [\"/admin*\"]}}]}]}",
            "{rules: [{to: [{operation: {paths: [\"/*\"], notPaths: [\"/admin/{*}\"]}}]}]}",
            "{rules: [{to: [{operation: {paths: [\"/public*\"]}}]}]}",
            "{rules: [{to: [{operation: {paths: [\"/public/{**}\"]}}]}]}",
            "{rules: [{to: [{operation: {paths: [/public]}}]}]}",
        ] {
            assert!(denied(spec, path), "{spec} {path}");
        }
    }
}

#[test]
fn what_servers_read_differently_is_let_in_only_if_all_of_it_is() {
    let allow = "{rules: [{to: [{operation: {paths: [\"/a/*\"]}}]}]}";
    assert!(!denied(allow, "/a/b"));
    assert!(!denied(allow, "/a/b%20c"));
    assert!(!denied(allow, "/a/b%2fc"));
    assert!(!denied(allow, "/a/x/../b"));
    assert!(!denied(allow, "/a/b;v=1"));
    assert!(denied(allow, "/a/..%2fb"));
    assert!(denied(allow, "/a/..;/b"));
    assert!(denied(allow, "/A/b"), "exactly as it is written, as in Istio");
    // The words of a pattern are read as those of a path are.
    let odd = "{rules: [{to: [{operation: {paths: [\"/a%20b\", \"/Caf%C3%A9\", \"/m;v=1\"]}}]}]}";
    for path in ["/a%20b", "/Caf%C3%A9", "/m;v=1"] {
        assert!(!denied(odd, path), "{path}");
    }
    assert!(denied(odd, "/m;v=2"));
    assert!(denied(odd, "/caf%C3%A9"));
}

#[test]
fn a_request_for_the_server_as_a_whole_has_a_path_too() {
    let mut options = request("OPTIONS /", &[]);
    options.head.as_mut().unwrap().uri = "*".parse().unwrap();
    let allow = compile(&[policy("p", "{rules: [{to: [{operation: {paths: [\"/*\"]}}]}]}")]);
    assert!(options.is_denied(&allow));
    let mut connect = request("CONNECT /", &[]);
    connect.head.as_mut().unwrap().uri = "cart:443".parse().unwrap();
    assert!(connect.is_denied(&allow), "it has none");
    assert!(connect.is_denied(&compile(&[policy("p", "{action: DENY, rules: [{}]}")])));
}
