//! Every example of docs/identity.md that is a configuration file: read as what it says that it is, without a complaint.

#![allow(clippy::unwrap_used, clippy::panic)]

use clap::Parser;

use crate::controller::{ControllerArgs, ControllerSettings};
use crate::settings::{RunArgs, Settings};

const PAGE: &str = include_str!("../../../docs/identity.md");

#[derive(Parser)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

#[derive(Parser)]
struct Controller {
    #[command(flatten)]
    args: ControllerArgs,
}

#[test]
fn every_example_of_a_configuration_file_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut issuers = Vec::new();
    for block in PAGE.split("```yaml\n").skip(1).map(|part| part.split_once("```").unwrap().0) {
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, block).unwrap();
        let words = ["x", "--config", path.to_str().unwrap()];
        match block.lines().next().unwrap() {
            "# /etc/mesh-agent/config.yaml" => {
                let run = Run::parse_from(words);
                let settings =
                    Settings::resolve_with(&run.args, |_| None).unwrap_or_else(|e| panic!("{block}\n{e}"));
                issuers.push(settings.ca.to_string());
            }
            "# /etc/mesh-agent/controller.yaml" => {
                let controller = Controller::parse_from(words);
                let settings = ControllerSettings::resolve_with(&controller.args, |_| None);
                settings.unwrap_or_else(|error| panic!("{block}\n{error}"));
            }
            "apiVersion: cert-manager.io/v1" => {
                serde_yaml_ng::from_str::<serde_json::Value>(block).unwrap();
            }
            other => panic!("nothing is known of an example that begins with {other}"),
        }
    }
    issuers.sort();
    assert_eq!(
        issuers,
        [
            "dev",
            "files:/etc/mesh-ca",
            "istio:https://istiod.istio-system.svc:15012",
            "istio:https://mesh-ca.example:15012",
            "spiffe:/run/spire/agent-sockets/spire-agent.sock",
        ]
    );
}
