//! A named network namespace as a guard, and running code inside it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::reaper::Root;

/// A network namespace under /run/netns; deleted on drop.
pub struct Netns {
    name: String,
    handle: File,
}

impl Netns {
    /// Makes one whose name ends in `name`.
    pub fn create(name: &str) -> Result<Self> {
        let name = Root::get()?.netns_name(name);
        ip(None, &format!("netns add {name}"))?;
        let path = format!("/run/netns/{name}");
        let handle = File::open(&path).with_context(|| format!("opening {path}"))?;
        Ok(Self { name, handle })
    }

    /// Name as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `setns` and for the directory source's annotation.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` commands, one a line, inside.
    pub fn ip(&self, commands: &str) -> Result<()> {
        ip(Some(&self.name), commands)
    }

    /// Runs `work` on a thread of its own that has entered the namespace. Its cgroup stays the caller's.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
                Ok(work())
            });
            entered.join().map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Deletes it now, as when a pod disappears; a second time does nothing.
    pub fn delete(&self) {
        let _ = ip(None, &format!("netns del {}", self.name));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.path().exists() {
            self.delete();
        }
    }
}

/// `ip [-n NETNS] -batch -`; the first command that fails ends it.
fn ip(netns: Option<&str>, commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes()).context("writing to ip")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!("ip failed on:\n{commands}\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
