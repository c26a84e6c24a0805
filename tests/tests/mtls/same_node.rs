//! `sameNode: mtls`: between two pods of one node as between two nodes, on the wire and before every policy.

use anyhow::ensure;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::http2::{H2Server, answer, get, with_client};
use mesh_tests::lab::eventually;
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::server::Server;
use mesh_tests::{SOON, agent_options};

use crate::scene::{id, rest};
use crate::{ask, echo};

const SECRET: &[u8] = b"3566-0020-secret-of-one-node";

#[test]
fn pods_of_one_node_speak_in_secret_where_that_is_wanted() {
    let Some(options) = agent_options() else { return };
    let nodes = Nodes::start("samenode", &options.flag("same-node", "mtls")).unwrap();
    let (h1, h2, tcp) = (nodes.port(), nodes.port(), nodes.port());
    let (server, seen) = echo_server(nodes.shelf.listen(h1).unwrap(), "shelf");
    let _h2 = H2Server::new(nodes.shelf.listen(h2).unwrap(), None, |_, mut respond| async move {
        answer(&mut respond, SECRET, None);
    });
    let echoed = Server::new(nodes.shelf.listen(tcp).unwrap(), |stream, _| echo(stream));
    let one = nodes.expose("one", "http", h1, &[&nodes.shelf]).unwrap();
    let two = nodes.expose("two", "http2", h2, &[&nodes.shelf]).unwrap();
    let bytes = nodes.expose("bytes", "tcp", tcp, &[&nodes.shelf]).unwrap();
    let wire = Wire::listen(&nodes.topology).unwrap();
    let path = format!("/{}", String::from_utf8_lossy(SECRET));
    assert_eq!(Client::new(nodes.web.connect(one).unwrap()).get("s", &path).unwrap().status(), 200);
    let body = with_client(nodes.web.connect(two).unwrap(), |client| async move {
        Ok(get(&client, "s", "/").await?.body)
    });
    assert_eq!(body.unwrap(), SECRET);
    assert_eq!(ask(&mut nodes.web.connect(bytes).unwrap(), SECRET), SECRET);
    assert!(wire.frames() > 30 && wire.count(SECRET) == 0, "{} of {}", wire.count(SECRET), wire.frames());
    // The applications see each other as ever, and both sides know who is who.
    assert!(server.peers().iter().chain(&echoed.peers()).all(|peer| peer.ip() == nodes.web.v4()));
    for reporter in ["source", "destination"] {
        let line = Nodes::log_shows(&nodes.near, reporter, |line| {
            line["path"] == path.as_str() && line["reporter"] == reporter
        });
        let line = line.unwrap();
        assert_eq!(line["connection_security_policy"], "mutual_tls", "{line}");
        assert_eq!(line["source_principal"], id("web"), "{line}");
        assert_eq!(line["destination_principal"], id("shelf"), "{line}");
    }
    // To itself a pod speaks on its loopback.
    assert_eq!(Client::new(nodes.shelf.connect(one).unwrap()).get("s", "/own").unwrap().status(), 200);

    // Policies hold as between nodes.
    let policies = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: shelf, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: shelf}}, mtls: {mode: STRICT}}\n---\n\
        apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: shelf, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: shelf}}, rules: [{from: [{source: {serviceAccounts: [cart]}}]}]}\n";
    nodes.topology.mesh().write_text("policies.yaml", policies).unwrap();
    eventually(SOON, || {
        let status = Client::new(nodes.web.connect(one)?).get("s", "/denied")?.status();
        ensure!(status == 403, "{status}");
        Ok(())
    })
    .unwrap();
    let heard = (seen.count(), echoed.accepted());
    let refused = nodes.web.connect(bytes).map(|mut stream| rest(&mut stream)).unwrap_or_default();
    assert_eq!(refused, b"");
    let plain =
        nodes.outside.connect(nodes.shelf.at(h1)).map(|stream| Client::new(stream).get("s", "/").is_ok());
    assert!(!plain.unwrap_or_default(), "plain text was let in");
    assert_eq!((seen.count(), echoed.accepted()), heard);
    assert_eq!(Client::new(nodes.cart.connect(one).unwrap()).get("s", "/allowed").unwrap().status(), 200);
}
