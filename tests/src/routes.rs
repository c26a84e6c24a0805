//! Services with two versions behind them, and routes that a test attaches and replaces.
//!
//! A route gets a new name with every change, so that the agent's list of routes tells whether the change is in force.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use mesh_agent::lab::eventually;

use crate::SOON;
use crate::http1::{Client, Message, echo_server};
use crate::shop::{Backend, HttpService, NAMESPACE, Service, Shop};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A service with endpoints of its own, and the services that its routes lead to: NAME, NAME-v1, NAME-v2. Their servers
/// call themselves `own`, `v1` and `v2`.
pub struct Versions {
    /// What clients dial.
    pub own: HttpService,
    /// A backend.
    pub v1: HttpService,
    /// Another.
    pub v2: HttpService,
}

impl std::ops::Deref for Versions {
    type Target = Service;
    fn deref(&self) -> &Service {
        &self.own
    }
}

impl Versions {
    /// `count` GETs of `path` on one connection: how many each of `own`, `v1` and `v2` answered, then how many got 500.
    pub fn shares(&self, client: &mut Client, path: &str, count: usize) -> Result<[usize; 4]> {
        let mut shares = [0; 4];
        for _ in 0..count {
            let answer = client.get(&self.name, path)?;
            let by =
                ["own", "v1", "v2"].iter().position(|name| answer.status() == 200 && answer.text() == **name);
            let place = if answer.status() == 500 { Some(3) } else { by };
            match place.and_then(|place| shares.get_mut(place)) {
                Some(share) => *share += 1,
                None => anyhow::bail!("nobody's answer: {answer:?}"),
            }
        }
        Ok(shares)
    }

    /// The only request with this target that any of the three received.
    pub fn received(&self, target: &str) -> Result<Message> {
        let all = [&self.own, &self.v1, &self.v2];
        let found: Vec<Message> = all.iter().flat_map(|service| service.seen().of(target)).collect();
        ensure!(found.len() == 1, "{} requests for {target}: {found:?}", found.len());
        Ok(found[0].clone())
    }
}

impl Shop {
    /// Three services of HTTP/1 echo servers, each on a cart of its own.
    pub fn versions(&self, name: &str, port_name: &str) -> Result<Versions> {
        let one = |name: &str, version: &str, cart: usize| {
            let (port, host) = (self.port(), &self.carts[cart]);
            let (server, seen) = echo_server(host.listen(port)?, version);
            let service = self.expose(name, port_name, port, &[host])?;
            anyhow::Ok(HttpService { service, backends: vec![Backend { server, seen, host: host.clone() }] })
        };
        let (v1, v2) = (one(&format!("{name}-v1"), "v1", 1)?, one(&format!("{name}-v2"), "v2", 2)?);
        Ok(Versions { own: one(name, "own", 0)?, v1, v2 })
    }

    /// Attaches an HTTPRoute with these rules to `service`, in the place of what was attached before. Its name.
    pub fn route(&self, service: &Service, rules: &str) -> Result<String> {
        self.route_of("HTTPRoute", service, rules)
    }

    /// The same with a route of any kind.
    pub fn route_of(&self, kind: &str, service: &Service, rules: &str) -> Result<String> {
        let parent = format!("parentRefs: [{{group: \"\", kind: Service, name: {}}}]", service.name);
        self.attach(&service.name, kind, NAMESPACE, &format!("{parent}, rules: [{rules}]"))
    }

    /// Writes a route with this spec to a file of that name, in the place of what was there, and waits until it and
    /// nothing else of that file is in force. Its name.
    pub fn attach(&self, file: &str, kind: &str, namespace: &str, spec: &str) -> Result<String> {
        let name = format!("{file}-r{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
        );
        self.topology.mesh().write_text(&format!("route-{file}.yaml"), &text)?;
        self.wait_attached(file, &[&format!("{kind}/{namespace}/{name}")])?;
        Ok(name)
    }

    /// Removes what [`Shop::attach`] wrote.
    pub fn detach(&self, file: &str) -> Result<()> {
        self.topology.mesh().remove(&format!("route-{file}.yaml"))?;
        self.wait_attached(file, &[])
    }

    fn wait_attached(&self, file: &str, expected: &[&str]) -> Result<()> {
        eventually(SOON, || {
            let listed = self.agent.cli(&["get", "routes", "-o", "name"])?.success()?.stdout;
            let of_file = |line: &&str| line.contains(&format!("/{file}-r"));
            let found: Vec<&str> = listed.lines().map(str::trim).filter(of_file).collect();
            ensure!(found == expected, "{expected:?} isn't what is attached:\n{listed}");
            Ok(())
        })
    }
}

/// A rule's `backendRefs` with one Service, port 80.
pub fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 80}}]")
}
