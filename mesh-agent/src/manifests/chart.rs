//! The charts' files, compiled in: what is under deploy/charts, and nothing else.

use serde_json::Value;

use super::parse::Templates;
use super::{ManifestsError, yaml};

/// A chart's files by their path in it.
#[derive(Debug)]
pub struct Chart {
    /// Its directory under deploy/charts.
    pub name: &'static str,
    pub(super) files: &'static [(&'static str, &'static str)],
}

macro_rules! chart {
    ($name:literal: $($file:literal),+ $(,)?) => {
        Chart {
            name: $name,
            files: &[$(($file, include_str!(concat!("../../../deploy/charts/", $name, "/", $file)))),+],
        }
    };
}

/// The definitions of our own kinds.
pub const CRDS: Chart =
    chart!("mesh-crds": "Chart.yaml", "values.yaml", "values.schema.json", "templates/trafficpolicies.yaml");

/// Agent and controller. Objects that others need come first.
pub const AGENT: Chart = chart!(
    "mesh-agent":
    "Chart.yaml",
    "values.yaml",
    "values.schema.json",
    "templates/_helpers.tpl",
    "templates/_rules.tpl",
    "templates/resourcequota.yaml",
    "templates/rbac-agent.yaml",
    "templates/rbac-controller.yaml",
    "templates/configmap.yaml",
    "templates/networkpolicy.yaml",
    "templates/admission-agent.yaml",
    "templates/admission.yaml",
    "templates/controller.yaml",
    "templates/daemonset.yaml",
    "templates/podmonitor.yaml",
    "templates/monitoring.yaml",
    "templates/NOTES.txt",
    "dashboards/mesh.json",
    "dashboards/service.json",
    "dashboards/agent.json",
    "alerts/mesh-agent.rules.yaml",
);

impl Chart {
    /// A file's text; empty where the chart has none.
    pub fn file(&self, name: &str) -> &'static str {
        self.files.iter().find(|(file, _)| *file == name).map_or("", |(_, text)| *text)
    }

    /// The values that hold where nothing else is said.
    pub(super) fn values(&self) -> Result<Value, ManifestsError> {
        yaml("values.yaml", self.file("values.yaml"))
    }

    pub(super) fn about(&self) -> Result<Value, ManifestsError> {
        yaml("Chart.yaml", self.file("Chart.yaml"))
    }

    pub(super) fn schema(&self) -> Result<Value, ManifestsError> {
        yaml("values.schema.json", self.file("values.schema.json"))
    }

    /// What templates may show as it is, by name: `.Files`.
    pub(super) fn shown(&self) -> Value {
        let files =
            self.files.iter().filter(|(file, _)| file.contains('/') && !file.starts_with("templates/"));
        files
            .map(|(file, text)| ((*file).to_owned(), Value::from(*text)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    pub(super) fn templates(&self) -> Result<Templates, ManifestsError> {
        let templates = self.files.iter().filter(|(file, _)| file.starts_with("templates/"));
        let manifests = |file: &str| file.ends_with(".yaml") || file.ends_with(".tpl");
        Templates::parse(templates.filter(|(file, _)| manifests(file)).copied())
    }
}
