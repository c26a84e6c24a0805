//! `describe pod`: who it is, whether it is captured, which connections it accepts and what kubelet may ask in plain text.

use serde::Serialize;

use super::{NamedArgs, failures, section, warning_section, why};
use crate::admin::api::flow::Flow;
use crate::admin::api::{Certificate, Dump, LiveEdges, Warning, Workload};
use crate::cli::edges::Pair;
use crate::cli::output::{Out, document};
use crate::cli::{Exit, Failure, Outcome};

pub(super) fn run(args: &NamedArgs, out: &mut Out<'_>) -> Outcome {
    let (dump, (namespace, name)) = (args.dump()?, args.object());
    let live = args.live("edges")?;
    let certificates = match args.file {
        Some(_) => Vec::new(),
        None => args.agent.client()?.get("/v1/certificates")?,
    };
    let mut page = Page::new(dump, live, certificates, namespace, name).ok_or_else(|| {
        Failure::message(Exit::Failed, format!("there is no pod {namespace}/{name}"))
            .hint("`mesh-agent get workloads` lists those that the agent knows")
    })?;
    page.failures = failures::of(args, failures::Of::Pod)?;
    out.data(&document(args.output, &page, Page::text)?)?;
    Ok(Exit::Ok)
}

/// All about one pod.
#[derive(Serialize)]
struct Page {
    pod: Workload,
    /// `NAMESPACE/NAME:PORT` of services that it is an endpoint of.
    services: Vec<String>,
    /// Of the pod and the policies that it is under.
    warnings: Vec<Warning>,
    /// The last that the agent keeps.
    failures: Vec<Flow>,
    /// Of its service account, where it is of the agent's own node.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate>,
    /// What its workload sent and received in the last minute; of the running agent alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    traffic: Vec<Pair>,
}

impl Page {
    fn new(
        dump: Dump,
        live: Option<LiveEdges>,
        certificates: Vec<Certificate>,
        namespace: &str,
        name: &str,
    ) -> Option<Self> {
        let pod = dump.workloads.into_iter().find(|it| it.namespace == namespace && it.name == name)?;
        let full = format!("{namespace}/{name}");
        let mine = dump.endpoints.iter().filter(|endpoint| endpoint.workload.as_ref() == Some(&full));
        let mut services: Vec<_> = mine
            .map(|endpoint| format!("{}/{}:{}", endpoint.namespace, endpoint.service, endpoint.port))
            .collect();
        services.dedup();
        let own = format!("Pod {full}");
        let mut warnings = dump.warnings;
        warnings.retain(|it| it.object == own || pod.mtls.iter().any(|mode| mode.from == it.object));
        let certificate = certificates.into_iter().find(|it| {
            it.namespace == pod.namespace && it.name == pod.service_account && pod.node == dump.node
        });
        let traffic = why::traffic(live, |edge| {
            let (from, to) = (&edge.key.source, &edge.key.destination);
            [(&from.namespace, &from.workload), (&to.namespace, &to.workload)]
                .contains(&(&pod.namespace, &pod.workload))
        });
        Some(Self { pod, services, warnings, failures: Vec::new(), certificate, traffic })
    }

    fn text(&self) -> String {
        let short = why::in_short(&why::pod(&self.pod, self.certificate.as_ref()));
        let (traffic, failures) = (why::traffic_section(&self.traffic), failures::table(&self.failures));
        let warnings = warning_section(&self.warnings);
        let sections = [self.head(), short, self.modes(), self.probes(), traffic, failures, warnings];
        sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn head(&self) -> String {
        let pod = &self.pod;
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        let reason = if pod.reason.is_empty() { String::new() } else { format!(" ({})", pod.reason) };
        let mut lines = vec![
            ("Pod:", format!("{}/{}", pod.namespace, pod.name)),
            ("Node:", pod.node.clone()),
            ("Addresses:", addresses.join(", ")),
            ("Account:", pod.service_account.clone()),
            ("Capture:", format!("{}{reason}", pod.capture.label())),
            ("Fail mode:", pod.fail_mode.clone()),
        ];
        let reached = match pod.reached.as_str() {
            "mesh" => "mutual TLS with its agent",
            "hbone" => "HBONE",
            "plain" => "plain text",
            // Of a dump that doesn't say.
            _ => "",
        };
        if !reached.is_empty() {
            lines.push(("Reached by:", reached.to_owned()));
        }
        if !self.services.is_empty() {
            lines.push(("Services:", self.services.join(", ")));
        }
        lines.into_iter().map(|(what, how)| format!("{what:<12}{how}\n")).collect()
    }

    fn modes(&self) -> String {
        let header = ["PORT", "MODE", "FROM"];
        let row = |port: Option<u16>, mode: &str, from: &str| {
            let port = match port {
                Some(port) => port.to_string(),
                None if self.pod.mtls.len() > 1 => "others".to_owned(),
                None => "all".to_owned(),
            };
            vec![port, mode.to_owned(), if from.is_empty() { "default" } else { from }.to_owned()]
        };
        let mut rows: Vec<_> = self.pod.mtls.iter().map(|it| row(it.port, &it.mode, &it.from)).collect();
        if rows.is_empty() {
            rows.push(row(None, "PERMISSIVE", ""));
        }
        section("Mutual TLS", &header, rows.into_iter())
    }

    fn probes(&self) -> String {
        let header = ["PORT", "PLAIN TEXT FROM THE NODE IN EVERY MODE"];
        let rows = self.pod.probes.iter().map(|probe| {
            let (port, what) = probe.split_once(' ').unwrap_or((probe, ""));
            vec![port.to_owned(), what.to_owned()]
        });
        section("Probes", &header, rows)
    }
}
