//! The agent's own log: on stderr, with a filter that `mesh-agent log set` changes while it runs.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Reads and changes the filter. Cloning shares it.
#[derive(Clone)]
pub struct LogHandle(Arc<Inner>);

enum Inner {
    Installed(reload::Handle<EnvFilter, Registry>),
    /// Something else in the process owns the log: tests, embedding.
    Foreign,
}

/// Why a filter isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It isn't one.
    #[error("{0:?} is no log filter; like info, or info,mesh_agent::proxy=debug")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// There is no log to change.
    #[error("the log of this process can't be changed")]
    Gone,
}

impl LogHandle {
    /// Makes this process log to stderr, in colour on a terminal unless NO_COLOR is set.
    ///
    /// # Errors
    /// When the filter can't be parsed.
    pub fn install(filter: &str) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let layer = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal() && !no_color);
        match tracing_subscriber::registry().with(filter).with(layer).try_init() {
            Ok(()) => Ok(Self(Arc::new(Inner::Installed(handle)))),
            Err(_) => Ok(Self::foreign()),
        }
    }

    /// For a process whose log is someone else's.
    pub fn foreign() -> Self {
        Self(Arc::new(Inner::Foreign))
    }

    /// The filter in force.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self) -> Result<String, LogError> {
        match &*self.0 {
            Inner::Installed(handle) => handle.with_current(ToString::to_string).map_err(|_| LogError::Gone),
            Inner::Foreign => Err(LogError::Gone),
        }
    }

    /// Puts a filter in force.
    ///
    /// # Errors
    /// When it can't be parsed; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        match &*self.0 {
            Inner::Installed(handle) => handle.reload(filter).map_err(|_| LogError::Gone),
            Inner::Foreign => Err(LogError::Gone),
        }
    }
}

/// `RUST_LOG` is not read: one flag, one meaning.
fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|error| LogError::Filter(filter.to_owned(), error))
}
