//! Flags, environment and file on top of each other, and the list of what is wrong with them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    BadValue, Ca, DEFAULT_CONFIG, OutboundTrafficPolicy, RunArgs, SameNode, SettingsError, WhenReplaced,
};
use crate::authz::Normalization;
use crate::ext_authz::{ExtensionProvider, Providers};
use crate::kernel::KernelServices;
use crate::model::FailMode;
use crate::proxy::client_cert::ForwardClientCert;
use crate::source::Source;
use crate::telemetry::{AccessLogMode, LabelProfile, Share};
use crate::trace;

/// Where a value came from, as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--node-name`.
    Flag(String),
    /// `MESH_AGENT_NODE_NAME`.
    Environment(String),
    /// `nodeName in FILE`.
    File(String, PathBuf),
    /// Nobody gave one.
    Default(String),
    /// Nobody gave one, and there is no default.
    Missing(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) | Self::Missing(flag) => f.write_str(flag),
            Self::Environment(name) => write!(f, "{name} (environment)"),
            Self::File(key, path) => write!(f, "{key} in {}", path.display()),
            Self::Default(flag) => write!(f, "default of {flag}"),
        }
    }
}

/// A command's flags, which its configuration file has as keys.
pub trait Flags: Default + serde::de::DeserializeOwned {
    /// What its environment variables begin with.
    const PREFIX: &'static str;
    /// Read if it is there and no other file is named.
    const DEFAULT_CONFIG: &'static str;

    /// `--config`.
    fn config(&self) -> Option<&Path>;
}

impl Flags for RunArgs {
    const PREFIX: &'static str = "MESH_AGENT_";
    const DEFAULT_CONFIG: &'static str = DEFAULT_CONFIG;

    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// The three layers, with complaints collected so that all of them are told at once.
pub struct Layers<'a, A = RunArgs> {
    flags: &'a A,
    env: &'a dyn Fn(&str) -> Option<String>,
    file: A,
    path: Option<PathBuf>,
    bad: Vec<BadValue>,
}

impl Layers<'_> {
    /// The file's providers of external authorization, which no flag can give.
    pub fn providers(&mut self) -> Vec<ExtensionProvider> {
        const KEY: &str = "extensionProviders";
        let list = self.file.extension_providers.clone();
        if let Err(message) = Providers::new(&list) {
            let origin = Origin::File(KEY.to_owned(), self.path.clone().unwrap_or_default());
            self.bad.push(BadValue { key: KEY, origin, message });
        }
        list
    }
}

impl<'a, A: Flags> Layers<'a, A> {
    /// Reads the file that the flag or the environment names, or the default one if it is there.
    pub fn read(flags: &'a A, env: &'a dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let variable = || given(env, &format!("{}CONFIG", A::PREFIX)).map(PathBuf::from);
        let named = flags.config().map(Path::to_owned).or_else(variable);
        let path = named.clone().unwrap_or_else(|| A::DEFAULT_CONFIG.into());
        let (file, path) = match std::fs::read_to_string(&path) {
            Ok(text) => (parse(&text, &path)?, Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => (A::default(), None),
            Err(source) => return Err(SettingsError::Unreadable { path, source }),
        };
        Ok(Self { flags, env, file, path, bad: Vec::new() })
    }

    /// The file that was read.
    pub fn config(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    /// The value of `key`, or the default. A value that doesn't parse is noted and replaced, for the time until
    /// [`Layers::finish`] refuses it, by the type's own default.
    pub fn get<T: Fallback>(
        &mut self,
        key: &'static str,
        field: impl Fn(&A) -> &Option<String>,
        default: impl FnOnce() -> String,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let (text, origin) = self.find(key, field).unwrap_or_else(|| match default() {
            none if none.is_empty() => (none, Origin::Missing(flag(key))),
            text => (text, Origin::Default(flag(key))),
        });
        parse(&text).unwrap_or_else(|message| {
            self.bad.push(BadValue { key, origin, message });
            T::fallback()
        })
    }

    /// [`Layers::get`] for a key without default.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        field: impl Fn(&A) -> &Option<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, origin) = self.find(key, field)?;
        parse(&text).map_err(|message| self.bad.push(BadValue { key, origin, message })).ok()
    }

    /// Notes what is wrong between keys.
    pub fn complain(&mut self, key: &'static str, field: impl Fn(&A) -> &Option<String>, message: String) {
        if self.bad.iter().all(|bad| bad.key != key) {
            let given = self.find(key, field).map(|(_, origin)| origin);
            let origin = given.unwrap_or_else(|| Origin::Default(flag(key)));
            self.bad.push(BadValue { key, origin, message });
        }
    }

    /// `settings`, unless anything was wrong.
    pub fn finish<T>(self, settings: T) -> Result<T, SettingsError> {
        if self.bad.is_empty() { Ok(settings) } else { Err(SettingsError::Values(self.bad)) }
    }

    fn find(&self, key: &str, field: impl Fn(&A) -> &Option<String>) -> Option<(String, Origin)> {
        if let Some(text) = field(self.flags) {
            return Some((text.clone(), Origin::Flag(flag(key))));
        }
        let name = variable::<A>(key);
        if let Some(text) = given(self.env, &name) {
            return Some((text, Origin::Environment(name)));
        }
        let text = field(&self.file).clone()?;
        Some((text, Origin::File(key.to_owned(), self.path.clone().unwrap_or_default())))
    }
}

/// A stand-in for a value that was refused; never seen outside, since [`Layers::finish`] then returns an error.
pub trait Fallback {
    /// Any value.
    fn fallback() -> Self;
}

macro_rules! fallback {
    ($($type:ty = $value:expr),+ $(,)?) => { $(
        impl Fallback for $type {
            fn fallback() -> Self { $value }
        }
    )+ };
}

fallback!(
    ForwardClientCert = Self::default(),
    String = String::new(),
    PathBuf = PathBuf::new(),
    u16 = 0,
    usize = 0,
    Duration = Duration::ZERO,
    SocketAddr = SocketAddr::from(([0, 0, 0, 0], 0)),
    Source = Source::Dir(PathBuf::new()),
    FailMode = FailMode::default(),
    OutboundTrafficPolicy = OutboundTrafficPolicy::default(),
    SameNode = SameNode::default(),
    KernelServices = KernelServices::default(),
    WhenReplaced = WhenReplaced::default(),
    Ca = Ca::default(),
    Vec<String> = Vec::new(),
    AccessLogMode = AccessLogMode::default(),
    Share = Share::default(),
    LabelProfile = LabelProfile::default(),
    trace::Protocol = trace::Protocol::default(),
    trace::Ratio = trace::Ratio::NONE,
    trace::Keep = trace::Keep::default(),
    u32 = 0,
    Normalization = Normalization::default(),
);

/// An empty variable counts as not given: charts and units write them so.
fn given(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

fn parse<A: Flags>(text: &str, path: &Path) -> Result<A, SettingsError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
        return Ok(A::default());
    }
    serde_yaml_ng::from_str(text)
        .map_err(|error| SettingsError::Invalid { path: path.to_owned(), message: error.to_string() })
}

/// `nodeName` to `--node-name`.
pub fn flag(key: &str) -> String {
    words(key, "--", '-', |c| c.to_ascii_lowercase())
}

/// `nodeName` to `MESH_AGENT_NODE_NAME`.
pub fn variable<A: Flags>(key: &str) -> String {
    words(key, A::PREFIX, '_', |c| c.to_ascii_uppercase())
}

fn words(key: &str, prefix: &str, between: char, case: impl Fn(char) -> char) -> String {
    let mut out = prefix.to_owned();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push(between);
        }
        out.push(case(c));
    }
    out
}
