//! What the kernel side needs, asked one by one, for `mesh-agent check`: each answer with what to do about it.
//!
//! Nothing is attached and nothing is left behind.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

use super::{KernelError, bpffs, cgroup, netns, object};
use crate::report::chain;

/// One thing that was looked at.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub result: CheckResult,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when it is well.
    pub hint: String,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// As it should be.
    Ok,
    /// The agent runs, but something is less than it could be.
    Warn,
    /// The agent can't run.
    Fail,
}

/// Everything that the kernel programs need, in the order in which to mend it.
pub fn checks() -> Vec<Check> {
    let mut checks = vec![
        kernel_version(),
        btf(),
        capabilities(),
        cgroup2(),
        bpf_filesystem(),
        netns_cookie(),
        programs_built(),
    ];
    let types = [
        ("connect and getpeername (cgroup_sock_addr)", ProgramType::CgroupSockAddr),
        ("sock_ops", ProgramType::SockOps),
        ("sk_lookup", ProgramType::SkLookup),
    ];
    checks.extend(
        types.map(|(name, kind)| supported(&format!("program type {name}"), is_program_supported(kind))),
    );
    let types = [
        ("hash", MapType::Hash),
        ("sk_storage", MapType::SkStorage),
        ("sockhash", MapType::SockHash),
        ("percpu_array", MapType::PerCpuArray),
        ("ringbuf", MapType::RingBuf),
    ];
    checks.extend(types.map(|(name, kind)| supported(&format!("map type {name}"), is_map_supported(kind))));
    checks
}

/// The two without which the verifier's complaint about some program would be all that an operator sees.
pub(super) fn required() -> Result<(), KernelError> {
    let failed = [(kernel_version(), NEEDED_VERSION), (btf(), NEEDED_BTF)]
        .into_iter()
        .find(|(check, _)| check.result == CheckResult::Fail);
    let Some((check, needed)) = failed else { return Ok(()) };
    Err(KernelError::Unsupported { found: format!("{} {}", check.name, check.detail), needed })
}

/// The oldest kernel with everything in use (DESIGN: 6.1).
pub const OLDEST: (u32, u32) = (6, 1);
/// What is said of an older one.
pub const NEEDED_VERSION: &str = "Linux 6.1 or newer is needed";
const NEEDED_BTF: &str = "the kernel must be built with CONFIG_DEBUG_INFO_BTF";

fn kernel_version() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let result = if parse_release(release).is_some_and(|version| version >= OLDEST) {
        CheckResult::Ok
    } else {
        CheckResult::Fail
    };
    check("kernel", result, release, NEEDED_VERSION)
}

/// Major and minor of what uname(2) calls the release.
pub fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf() -> Check {
    let there = Path::new("/sys/kernel/btf/vmlinux").exists();
    let detail = if there { "/sys/kernel/btf/vmlinux" } else { "no /sys/kernel/btf/vmlinux" };
    check("BTF", ok_or_fail(there), detail, NEEDED_BTF)
}

/// Numbers from linux/capability.h. What CAP_BPF and CAP_PERFMON stand for is part of CAP_SYS_ADMIN (capabilities(7)).
const NEEDED: [(&str, u32); 2] = [("net_admin", 12), ("sys_admin", 21)];

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    let effective = u64::from_str_radix(hex.trim(), 16).unwrap_or(0);
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    let detail =
        if missing.is_empty() { "all there".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    let hint = "run as root, or with CAP_SYS_ADMIN (to load programs and to enter pods' namespaces) and CAP_NET_ADMIN";
    check("capabilities", ok_or_fail(missing.is_empty()), &detail, hint)
}

fn cgroup2() -> Check {
    match cgroup::cgroup2_mount() {
        Ok(mount) => check("cgroup2", CheckResult::Ok, &mount.display().to_string(), ""),
        Err(error) => {
            check("cgroup2", CheckResult::Fail, &error.to_string(), "mount the host's cgroup2 hierarchy")
        }
    }
}

fn bpf_filesystem() -> Check {
    let path = Path::new("/sys/fs/bpf");
    let (result, detail) = match bpffs::is_bpffs(path) {
        Ok(true) => (CheckResult::Ok, "mounted at /sys/fs/bpf"),
        Ok(false) => (CheckResult::Warn, "not mounted; the agent will mount it"),
        Err(_) => (CheckResult::Fail, "no /sys/fs/bpf"),
    };
    check(
        "bpffs",
        result,
        detail,
        "mount -t bpf bpf /sys/fs/bpf; in a container mount the host's, or pins won't outlive it",
    )
}

fn netns_cookie() -> Check {
    match netns::cookie_here() {
        Ok(cookie) => check("netns cookie", CheckResult::Ok, &format!("this namespace's is {cookie}"), ""),
        Err(error) => {
            check("netns cookie", CheckResult::Fail, &error.to_string(), "SO_NETNS_COOKIE needs Linux 5.14")
        }
    }
}

fn programs_built() -> Check {
    let built = object::is_built();
    let detail = if built { "compiled in" } else { "not compiled in" };
    check("kernel programs", ok_or_fail(built), detail, "run `cargo xtask build`")
}

fn supported<E: Error + 'static>(name: &str, answer: Result<bool, E>) -> Check {
    match answer {
        Ok(true) => check(name, CheckResult::Ok, "supported", ""),
        Ok(false) => {
            check(name, CheckResult::Fail, "not supported", "the kernel's configuration leaves it out")
        }
        Err(error) if is_denied(&error) => {
            check(name, CheckResult::Fail, "needs CAP_BPF and CAP_NET_ADMIN", "run as root")
        }
        Err(error) => check(name, CheckResult::Fail, &chain(&error).to_string(), "the kernel can't be asked"),
    }
}

/// True if the kernel refused for want of privilege.
fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn ok_or_fail(well: bool) -> CheckResult {
    if well { CheckResult::Ok } else { CheckResult::Fail }
}

fn check(name: &str, result: CheckResult, detail: &str, hint: &str) -> Check {
    let hint = if result == CheckResult::Ok { "" } else { hint };
    Check { name: name.to_owned(), result, detail: detail.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_every_distribution_are_read() {
        let cases = [
            ("6.18.44-fc-v657", Some((6, 18))),
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0+", Some((5, 15))),
            ("nonsense", None),
        ];
        for (release, expected) in cases {
            assert_eq!(parse_release(release), expected, "{release}");
        }
    }
}
