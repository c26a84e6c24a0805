//! Backends of a third namespace: reached with its leave, and not without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::ensure;
use mesh_tests::http1::echo_server;
use mesh_tests::lab::{EndpointObject, Object, ServiceObject, SliceObject, eventually};
use mesh_tests::{SOON, need_shop, shared_shop};

shared_shop!("grants");

/// Whom the grant of namespace `vault` lets name its Service `store`.
fn grant(kind: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: vault}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], to: [{{group: \"\", kind: Service, name: {to}}}]}}\n"
    )
}

#[test]
fn a_backend_of_a_third_namespace_is_reached_as_long_as_it_grants_that() {
    let shop = need_shop!();
    let v = shop.versions("granted", "http").unwrap();
    let (port, (v4, v6)) = (shop.port(), shop.vips());
    let (_server, seen) = echo_server(shop.carts[2].listen(port).unwrap(), "vault");
    let store = ServiceObject::new("vault", "store").vip(v4).vip(v6).port("http", 80);
    let endpoint = EndpointObject::address(shop.carts[2].at(port).ip());
    let slice = SliceObject::new("vault", "store", "store-4").port("http", port).endpoint(endpoint);
    shop.topology.mesh().write("svc-vault.yaml", [Object::from(store), slice.into()]).unwrap();
    shop.wait_known("store").unwrap();
    shop.route(&v, "{backendRefs: [{name: store, namespace: vault, port: 80}]}").unwrap();
    let mut client = shop.client(&v).unwrap();
    let mut becomes = |status: u16, why: &str| {
        eventually(SOON, || {
            let answer = client.get("granted", "/")?;
            ensure!(answer.status() == status, "{why}: {}", answer.head);
            Ok(answer.text())
        })
        .unwrap()
    };
    becomes(500, "nobody granted it");
    assert_eq!(seen.count(), 0);
    let write = |text: &str| shop.topology.mesh().write_text("grant-vault.yaml", text).unwrap();
    write(&grant("HTTPRoute", "shop", "store"));
    assert_eq!(becomes(200, "granted"), "vault");
    // Another service, route or namespace has no use of it.
    for (kind, from, to) in
        [("GRPCRoute", "shop", "store"), ("HTTPRoute", "web", "store"), ("HTTPRoute", "shop", "other")]
    {
        write(&grant(kind, from, to));
        becomes(500, &format!("{kind} of {from} may name {to}"));
        write(&grant("HTTPRoute", "shop", "store"));
        becomes(200, "granted again");
    }
    shop.topology.mesh().remove("grant-vault.yaml").unwrap();
    becomes(500, "taken back");
}
