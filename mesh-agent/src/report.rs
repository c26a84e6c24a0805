//! The one place where an error's chain of causes becomes text.

use std::error::Error;
use std::fmt::{self, Display};

/// Shows `error` and what caused it, separated by colons. What a library's error says of its cause already isn't said
/// twice.
pub fn chain(error: &dyn Error) -> impl Display {
    struct Chain<'e>(&'e dyn Error);
    impl Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut said = self.0.to_string();
            f.write_str(&said)?;
            let mut cause = self.0.source();
            while let Some(error) = cause {
                let text = error.to_string();
                if !said.ends_with(&text) {
                    write!(f, ": {text}")?;
                }
                said = text;
                cause = error.source();
            }
            Ok(())
        }
    }
    Chain(error)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("map error: {0}")]
    struct Repeats(#[from] io::Error);

    #[test]
    fn no_cause_is_said_twice() {
        let refused = || io::Error::other("refused");
        assert_eq!(chain(&refused()).to_string(), "refused");
        assert_eq!(chain(&Repeats(refused())).to_string(), "map error: refused");
    }
}
