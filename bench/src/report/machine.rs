//! What was measured on, and with which versions.

use std::fs;
use std::process::Command;

use crate::run::Results;

/// Processor, memory, kernel, and what else it did: a table.
pub fn short(background: f64) -> String {
    hardware() + &other_work(background)
}

/// A section of the page.
pub fn describe(results: &Results) -> String {
    let mut text = format!("## Machine\n\n{}", hardware());
    let versions = [
        ("Envoy", "envoy", ["--version"].as_slice()),
        ("nginx", "nginx", &["-v"]),
        ("haproxy", "haproxy", &["-v"]),
        ("wrk", "wrk", &["--version"]),
        ("h2load", "h2load", &["--version"]),
        ("iptables", "iptables", &["--version"]),
    ];
    for (name, program, args) in versions {
        let version = first_line(program, args).unwrap_or_else(|| "not there".to_owned());
        text.push_str(&format!("| {name} | {version} |\n"));
    }
    let Results { rounds, seconds, background, .. } = results;
    text.push_str(&format!("| rounds | {rounds} of {seconds} s for each row |\n"));
    text.push_str(&other_work(*background));
    text
}

fn other_work(background: f64) -> String {
    format!("| other work on the machine | {background:.1} cores busy before the run |\n")
}

fn hardware() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split(": ").nth(1));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        meminfo.split_whitespace().nth(1).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    format!(
        "| | |\n|---|---|\n| processor | {}, {cores} cores |\n| memory | {:.0} GB |\n| kernel | {} |\n",
        model.unwrap_or("unknown"),
        kilobytes * 1024.0 / 1e9,
        first_line("uname", &["-r"]).unwrap_or_default()
    )
}

/// The first line that says something, of either output.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    // Envoy names its binary first, by its path.
    Some(line.rsplit_once("version: ").map_or(line, |(_, version)| version).replace('|', "/"))
}
