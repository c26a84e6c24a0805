//! `bugreport`: all there, and no secret of what the mesh is configured with or of what passes through it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use mesh_tests::SOON;
use mesh_tests::http1::Client;
use mesh_tests::lab::eventually;
use mesh_tests::shop::NAMESPACE;
use serde_json::Value;

use crate::{need_nodes, serve};

/// In the place of every secret.
const MARK: &str = "planted-4111-secret";

/// The archive's files by name, unpacked by another program than the one that packed it.
fn unpack(archive: &Path) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(dir.path()).status().unwrap();
    assert!(status.success(), "tar doesn't read {}", archive.display());
    let mut files = BTreeMap::new();
    for root in std::fs::read_dir(dir.path()).unwrap() {
        for file in std::fs::read_dir(root.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut text = String::new();
            std::fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
            files.insert(path.file_name().unwrap().to_string_lossy().into_owned(), text);
        }
    }
    files
}

#[test]
fn a_bug_report_has_every_part_and_no_secret() {
    let nodes = need_nodes!();
    let (_server, seen, service) = serve(nodes, &nodes.cart, "secretive");
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: secretive, namespace: {NAMESPACE}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: secretive}}]\n  rules:\n  \
         - matches: [{{headers: [{{name: x-api-key, value: {MARK}}}], queryParams: [{{name: pass, value: {MARK}}}]}}]\n    \
         backendRefs: [{{name: secretive, port: 80}}]\n  \
         - filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        \
         set: [{{name: authorization, value: Bearer {MARK}}}, {{name: x-plain, value: {MARK}}}]\n    \
         - type: ResponseHeaderModifier\n      responseHeaderModifier: {{add: [{{name: set-cookie, value: a={MARK}}}]}}\n    \
         backendRefs: [{{name: secretive, port: 80}}]\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: planted, namespace: {NAMESPACE}}}\nstringData: {{password: {MARK}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: planted, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{matchLabels: {{app: none}}}}, rules: [{{when: [{{key: 'request.headers[x-token]', values: [{MARK}]}}]}}]}}\n"
    );
    nodes.topology.mesh().write_text("route-secretive.yaml", &route).unwrap();
    eventually(SOON, || {
        let listed = nodes.near.cli(&["get", "routes", "-o", "name"])?.success()?.stdout;
        ensure!(listed.contains("/secretive"), "{listed}");
        Ok(())
    })
    .unwrap();
    let mut client = Client::new(nodes.web.connect(service).unwrap());
    let request = format!(
        "GET /bytes/1?token={MARK} HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {MARK}\r\nCookie: s={MARK}\r\nx-any: {MARK}\r\n\r\n"
    );
    assert_eq!(client.ask(&request).unwrap().status(), 200);
    assert!(seen.all().pop().unwrap().head.contains(&format!("Bearer {MARK}")), "the rule is in force");
    // The secrets are where the report is made from.
    let dump = nodes.near.cli(&["config", "dump"]).unwrap().success().unwrap().stdout;
    assert!(dump.contains(MARK), "nothing is planted in {dump}");

    let place = tempfile::tempdir().unwrap();
    let directory = place.path().display().to_string();
    let said = nodes.near.cli(&["bugreport", "--directory", &directory]).unwrap().success().unwrap().stdout;
    let archive = Path::new(said.trim());
    assert_eq!(std::fs::metadata(archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpack(archive);
    for part in [
        "status.json",
        "config.json",
        "config-history.json",
        "metrics.txt",
        "warnings.json",
        "certificates.json",
        "connections.json",
        "bpf.json",
        "log-filter.json",
        "live-edges.json",
        "live-history.json",
        "live-routes.json",
        "report.json",
    ] {
        assert!(files.get(part).is_some_and(|text| text.len() > 1), "{part} isn't in {:?}", files.keys());
    }
    for (name, text) in &files {
        assert!(!text.contains(MARK), "a secret is in {name}");
        assert!(!text.contains("PRIVATE KEY"), "a key is in {name}");
    }
    // What remains is worth sending.
    assert!(files["config.json"].contains("x-plain: [redacted]"), "{}", files["config.json"]);
    assert!(files["live-edges.json"].contains("secretive"), "{}", files["live-edges.json"]);
    assert!(files["metrics.txt"].contains("istio_requests_total{"));
    let about: Value = serde_json::from_str(&files["report.json"]).unwrap();
    assert!(about["kernel"].is_string() && about["missing"] == serde_json::json!([]), "{about}");
}

#[test]
fn without_an_agent_no_file_is_left() {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(mesh_tests::agent_binary().unwrap())
        .args(["bugreport", "--state-dir", "/nonexistent", "--directory"])
        .arg(place.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
