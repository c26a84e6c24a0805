//! Which suites run beside each other: those on Kubernetes, which mostly wait for it. All others have the machine for
//! themselves, one after another, since many of them measure time.
//!
//! What suites print that run beside each other is shown suite by suite, so that each failure stands below its suite's name.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use super::count::{Count, Filter};
use crate::{sh, workspace};

/// Their names begin so where they need a Kubernetes.
const KUBE: &str = "kube_";
/// These need nodes as well. Only one cluster with nodes can be up at a time, so they come one after another.
const WITH_NODES: [&str; 2] = ["kube_daemonset", "kube_nodes"];

/// Names of suites.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suites {
    /// One after another, before the rest.
    pub alone: Vec<String>,
    /// Two rows of them, each one after another, beside each other.
    pub beside: [Vec<String>; 2],
}

impl Suites {
    /// Those that there are.
    pub fn find() -> Result<Self> {
        let dir = workspace::root().join("tests/tests");
        let entries = dir.read_dir().with_context(|| format!("reading {}", dir.display()))?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        let suites = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        Ok(Self::of(suites.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))))
    }

    fn of(names: impl Iterator<Item = String>) -> Self {
        let mut suites = Self::default();
        for name in names {
            match name.as_str() {
                name if !name.starts_with(KUBE) => &mut suites.alone,
                name if WITH_NODES.contains(&name) => &mut suites.beside[0],
                _ => &mut suites.beside[1],
            }
            .push(name);
        }
        suites.alone.sort();
        suites.beside.iter_mut().for_each(|row| row.sort());
        suites
    }
}

/// Runs commands beside each other; what they print is shown block by block, a line at a time. False when a test failed.
pub fn beside(commands: Vec<Command>, count: &mut Count, show: impl Fn(&str) + Sync) -> Result<bool> {
    let shown = Mutex::new(());
    let counts: Vec<Result<(bool, Count)>> = thread::scope(|scope| {
        let (shown, show) = (&shown, &show);
        let rows: Vec<_> =
            commands.into_iter().map(|command| scope.spawn(move || row(command, shown, show))).collect();
        rows.into_iter()
            .map(|row| row.join().unwrap_or_else(|_| Err(anyhow!("a row of suites panicked"))))
            .collect()
    });
    let mut all = true;
    for counted in counts {
        let (passed, counted) = counted?;
        all &= passed;
        count.add(counted);
    }
    Ok(all)
}

fn row(mut command: Command, shown: &Mutex<()>, show: &impl Fn(&str)) -> Result<(bool, Count)> {
    let (mut child, output) = start(&mut command)?;
    let (mut count, mut filter, mut block) = (Count::default(), Filter::default(), Vec::new());
    let show_block = |block: &mut Vec<String>| {
        let _whole = shown.lock().unwrap_or_else(PoisonError::into_inner);
        block.drain(..).for_each(|line| show(&line));
    };
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        block.extend(filter.line(&line, &mut count));
        if line.starts_with("test result: ") {
            show_block(&mut block);
        }
    }
    filter.end(&mut count);
    show_block(&mut block);
    Ok((child.wait()?.success(), count))
}

/// Both outputs in one, as cargo tells on the one which suite the other is of.
pub fn start(command: &mut Command) -> Result<(Child, PipeReader)> {
    let (output, input) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let child = command.spawn().context("could not start cargo")?;
    // The command's own ends of the pipe go: there is an end to what is read.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((child, output))
}

/// `cargo test` of suites.
pub fn cargo(names: &[String]) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["test", "--package", "mesh-tests", "--no-fail-fast"]);
    for name in names {
        cargo.args(["--test", name]);
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_with_nodes_come_in_one_row_and_those_without_kubernetes_in_none() {
        let names = ["kube_source", "mtls", "kube_nodes", "cli", "kube_daemonset", "kube_controller"];
        let suites = Suites::of(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(suites.alone, ["cli", "mtls"]);
        assert_eq!(
            suites.beside,
            [vec!["kube_daemonset", "kube_nodes"], vec!["kube_controller", "kube_source"]]
        );
    }

    #[test]
    fn every_suite_is_run_and_those_with_nodes_are_there() -> Result<()> {
        let Suites { alone, beside: [nodes, others] } = Suites::find()?;
        assert_eq!(nodes, WITH_NODES);
        assert!(alone.contains(&"mtls".to_owned()) && others.contains(&"kube_source".to_owned()));
        Ok(())
    }

    #[test]
    fn rows_are_counted_together_and_one_that_fails_is_a_failure() -> Result<()> {
        let says = |text: &str, code: u8| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("echo '{text}'; exit {code}")]);
            command
        };
        let result = |passed, failed| format!("test result: ok. {passed} passed; {failed} failed; 0 ignored");
        let mut count = Count::default();
        // Not shown: whoever counts this test's own output would count it too.
        let hide = |_: &str| {};
        assert!(beside(vec![says(&result(2, 0), 0), says(&result(3, 0), 0)], &mut count, hide)?);
        assert!(!beside(vec![says(&result(1, 0), 0), says(&result(0, 1), 1)], &mut count, hide)?);
        assert_eq!((count.passed, count.failed), (6, 1));
        Ok(())
    }
}
