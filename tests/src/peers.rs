//! Real peers run in pods: nginx, python scripts, gRPC with stubs generated on the spot, openssl.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use mesh_agent::lab::{PodCommand, Running, Topology, eventually};

use crate::sockets::Host;
use crate::{PATIENCE, SOON};

/// The interpreter itself, without a version manager's detour on every start.
pub fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        output
            .ok()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
            .unwrap_or_else(|| "python3".into())
    })
}

/// Path of a file under tests/peers.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// A python script of tests/peers, in a pod. The gRPC stubs are on its path.
pub fn python_script(topology: &Topology, host: &Host, name: &str) -> Result<PodCommand> {
    let command = host.command(python()).arg("-u").arg(script(name));
    Ok(command.env("PYTHONPATH", stubs(topology)?).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Starts a script that says `listening` once it does.
pub fn python_server(topology: &Topology, host: &Host, name: &str, args: &[&str]) -> Result<Running> {
    let mut running = python_script(topology, host, name)?.args(args).start()?;
    running.wait_for_line("listening", PATIENCE)?;
    Ok(running)
}

/// Stubs of the .proto files of tests/peers, generated once a process.
fn stubs(topology: &Topology) -> Result<PathBuf> {
    static STUBS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = STUBS.get_or_init(|| generate(topology).map_err(|error| format!("{error:#}")));
    made.clone().map_err(|error| anyhow!("{error}"))
}

fn generate(topology: &Topology) -> Result<PathBuf> {
    let out = topology.scratch().join("stubs");
    fs::create_dir_all(&out)?;
    let mut command = Command::new(python());
    command.args(["-m", "grpc_tools.protoc", "-I"]).arg(script("")).args(["echo.proto", "health.proto"]);
    command.arg("--python_out").arg(&out).arg("--grpc_python_out").arg(&out);
    Running::start(command)?
        .finish(PATIENCE * 3)?
        .success()
        .context("generating gRPC stubs (pip install grpcio-tools)")?;
    Ok(out)
}

/// nginx in a pod with the given `http` contents, waited for on `port`.
pub fn nginx(topology: &Topology, host: &Host, port: u16, http: &str) -> Result<Running> {
    let dir = topology.scratch().join(format!("nginx-{}-{port}", host.name()));
    fs::create_dir_all(&dir)?;
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
        .concat();
    let conf = format!(
        "daemon off; worker_processes 1; pid {d}/pid; error_log {d}/error.log; user root;\n\
         events {{ worker_connections 1024; }}\nhttp {{ access_log off; {paths}\n{http}\n}}\n",
        d = dir.display()
    );
    fs::write(dir.join("nginx.conf"), conf)?;
    let mut running =
        host.command("nginx").arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf")).start()?;
    eventually(SOON, || {
        if let Some(code) = running.try_wait() {
            return Err(anyhow!("nginx ended with {code}: {}", running.stderr()));
        }
        // On the pod's own loopback, which is never captured.
        let local = ([127, 0, 0, 1], port).into();
        host.connect(local).map(drop).context("nginx is not listening")
    })?;
    Ok(running)
}
