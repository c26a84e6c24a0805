//! How the demo is shown: figures that a person can follow, or one JSON object at the end.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Output;
use super::stage::Stage;

/// What a phase found.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    name: &'static str,
    /// Machine-readable.
    pub(super) figures: Value,
    checks: Vec<(String, bool)>,
}

impl Outcome {
    pub(super) fn new(name: &'static str, figures: Value) -> Self {
        Self { name, figures, checks: Vec::new() }
    }

    /// Notes that something should be so, and whether it is.
    pub(super) fn check(&mut self, is_so: bool, what: &str) {
        self.checks.push((what.to_owned(), is_so));
    }

    fn passed(&self) -> bool {
        self.checks.iter().all(|(_, is_so)| *is_so)
    }
}

/// All of it.
pub(super) struct Report {
    phases: Vec<Outcome>,
    took: Duration,
}

impl Report {
    pub(super) fn new(phases: Vec<Outcome>, took: Duration) -> Self {
        Self { phases, took }
    }

    /// Names of the phases that didn't pass.
    pub(super) fn failed(&self) -> Vec<&'static str> {
        self.phases.iter().filter(|phase| !phase.passed()).map(|phase| phase.name).collect()
    }

    fn json(&self) -> Value {
        let check = |(what, is_so): &(String, bool)| json!({"check": what, "passed": is_so});
        let phases: Vec<Value> = self
            .phases
            .iter()
            .map(|phase| {
                let checks: Vec<Value> = phase.checks.iter().map(check).collect();
                json!({"name": phase.name, "passed": phase.passed(), "checks": checks, "figures": phase.figures})
            })
            .collect();
        json!({"passed": self.failed().is_empty(), "seconds": self.took.as_secs_f64(), "phases": phases})
    }
}

/// Where to and how.
pub(super) struct Show {
    text: bool,
    live: bool,
}

impl Show {
    pub(super) fn new(output: Output) -> Self {
        let text = output == Output::Text;
        Self { text, live: text && std::io::stdout().is_terminal() }
    }

    /// A remark, on standard error.
    pub(super) fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    pub(super) fn introduce(&self, stage: &Stage) {
        self.say(&format!(
            "\n  web   (fails closed) \\                       / cart-1 v1\n  \
               {:21}  > {} = service cart - cart-2 v1      outside: a server in no mesh\n  \
               batch (fails open)   /                       \\ cart-3 v2      vault:   on a second node\n\n\
             Both clients call the service a hundred times a second, each time on a new connection.",
            "", stage.vip
        ));
    }

    pub(super) fn begin(&self, name: &str, what: &str) {
        self.say(&format!("\n{}: {what}", name.to_uppercase()));
    }

    pub(super) fn end(&self, outcome: &Outcome) {
        for (what, is_so) in &outcome.checks {
            self.say(&format!("  {} {what}", if *is_so { "ok    " } else { "FAILED" }));
        }
    }

    /// Figures that will change: on a terminal they are written over one another.
    pub(super) fn live(&self, rows: &[(&str, String)]) {
        if self.live {
            self.rows(rows);
            print!("\x1b[{}A", rows.len());
            let _ = std::io::stdout().flush();
        }
    }

    /// Figures that won't.
    pub(super) fn settle(&self, rows: &[(&str, String)]) {
        if self.text {
            self.rows(rows);
        }
    }

    fn rows(&self, rows: &[(&str, String)]) {
        let clear = if self.live { "\x1b[K" } else { "" };
        for (name, figures) in rows {
            println!("  {name:<18} {figures}{clear}");
        }
    }

    /// One figure with its meaning.
    pub(super) fn row(&self, name: &str, value: f64, meaning: &str) {
        self.say(&format!("  {name:<20} {value:>7}  {meaning}"));
    }

    /// Lines as they are.
    pub(super) fn lines(&self, lines: impl Iterator<Item = String>) {
        lines.for_each(|line| self.say(&line));
    }

    /// A command that anybody could give, and what it says.
    pub(super) fn command(&self, command: &str, said: &str) {
        self.say(&format!("  # {command}"));
        said.trim_end().lines().for_each(|line| self.say(&format!("  {line}")));
    }

    pub(super) fn report(&self, report: &Report) -> Result<()> {
        let failed = report.failed();
        if !self.text {
            println!("{}", serde_json::to_string_pretty(&report.json())?);
        } else if failed.is_empty() {
            println!(
                "\nAll {} phases as they should be, in {:.1} s.",
                report.phases.len(),
                report.took.as_secs_f64()
            );
            println!("`mesh-agent demo --keys` shows it live, and lets you do all this by keys.");
        } else {
            println!("\nNot as it should be: {}.", failed.join(", "));
        }
        Ok(())
    }

    /// The commands to look around with; on standard error, so that JSON stays alone on standard output.
    pub(super) fn keep(&self, stage: &Stage) {
        let (state, far) = (stage.agent.state_dir().display(), stage.far.agent.state_dir().display());
        let (metrics, web) = (stage.agent.metrics_address(), stage.web_pod.netns().name());
        let cgroup = stage.web_pod.cgroup().display();
        eprintln!(
            "\nIt goes on until Ctrl-C. In another terminal:\n\n  \
             export MESH_AGENT_STATE_DIR={state}\n  \
             mesh-agent status\n  \
             mesh-agent stat svc\n  \
             mesh-agent edges\n  \
             mesh-agent get workloads\n  \
             mesh-agent get endpoints -o wide\n  \
             mesh-agent get routes\n  \
             mesh-agent get certs\n  \
             mesh-agent --state-dir {far} authz check --from pod/shop/batch --to pod/shop/vault --path /admin/keys || true\n  \
             mesh-agent get connections -w\n  \
             mesh-agent bpf reasons\n  \
             curl -s http://{metrics}/metrics | grep istio_requests_total\n  \
             tail -f {state}/access.log\n\n\
             `mesh-agent dashboard` shows it in a browser, `mesh-agent top` on this terminal.\n\n\
             A command of your own as a process of the pod web:\n\n  \
             sh -c 'echo 0 >{cgroup}/cgroup.procs; exec ip netns exec {web} curl -s http://{}/'\n",
            stage.vip
        );
    }

    fn say(&self, text: &str) {
        if self.text {
            println!("{text}");
        }
    }
}
