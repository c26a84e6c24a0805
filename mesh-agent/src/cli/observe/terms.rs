//! The terms of `observe` as flags, in Hubble's grammar: `--not` negates the one behind it, wherever it stands.
//!
//! Made from the table that the agent's filter has, so that both know the same. By hand and not derived, since the order of
//! flags counts.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, error::ErrorKind};

use crate::telemetry::flows::filter::{NOT, TERMS};

const NEGATION: &str = "not";
/// Evaluated by the command line, not by the agent.
const CEL: &str = "cel-expression";
const HEADING: &str = "Which flows";

/// What was asked for: whether it is negated, the term, its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms(Vec<(bool, String, String)>);

impl Terms {
    /// For the agent, as parameters.
    pub(super) fn asked(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().filter(|(_, term, _)| term != CEL).map(|(negated, term, value)| {
            (format!("{}{term}", if *negated { NOT } else { "" }), value.as_str())
        })
    }

    /// In CEL, and whether they have to be false.
    pub(super) fn expressions(&self) -> impl Iterator<Item = (bool, &str)> {
        let expressions = self.0.iter().filter(|(_, term, _)| term == CEL);
        expressions.map(|(negated, _, value)| (*negated, value.as_str()))
    }
}

impl Args for Terms {
    fn augment_args(mut command: Command) -> Command {
        let arg = |name: &'static str, value: &'static str, help: &'static str| {
            let arg = Arg::new(name).long(name).value_name(value).help(help);
            arg.action(ArgAction::Append).help_heading(HEADING)
        };
        let not = Arg::new(NEGATION).long(NEGATION).num_args(0).default_missing_value("true");
        command = command.arg(
            not.action(ArgAction::Append)
                .help_heading(HEADING)
                .help("Negates the next of these: --not --http-method GET"),
        );
        for term in TERMS {
            command = command.arg(arg(term.name, term.value, term.help));
        }
        let help = "Flows of which this expression is true; the flow is _flow, as -o json shows it";
        command.arg(arg(CEL, "EXPRESSION", help))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Terms {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let usage = |message: &str| Error::raw(ErrorKind::ValueValidation, format!("{message}\n"));
        // By their places on the command line.
        let mut found = BTreeMap::new();
        for name in TERMS.iter().map(|term| term.name).chain([CEL]) {
            let values = matches.get_many::<String>(name).into_iter().flatten();
            for (at, value) in matches.indices_of(name).into_iter().flatten().zip(values) {
                found.insert(at, Some((name, value)));
            }
        }
        found.extend(matches.indices_of(NEGATION).into_iter().flatten().map(|at| (at, None)));
        let (mut terms, mut negated) = (Vec::new(), false);
        for term in found.into_values() {
            match term {
                None if negated => return Err(usage("two --not in a row")),
                None => negated = true,
                Some((name, value)) => {
                    terms.push((std::mem::take(&mut negated), name.to_owned(), value.clone()));
                }
            }
        }
        if negated {
            Err(usage("--not negates the term behind it, and there is none"))
        } else {
            Ok(Self(terms))
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Appends `text` percent-encoded (RFC 3986, unreserved characters stay).
pub(super) fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(args: &str) -> Result<Terms, Error> {
        let command = Terms::augment_args(Command::new("observe").no_binary_name(true));
        Terms::from_arg_matches(&command.try_get_matches_from(args.split_whitespace())?)
    }

    #[test]
    fn not_negates_the_term_behind_it_alone() {
        fn check(args: &str, want: &[(&str, &str)]) {
            let terms = parse(args).unwrap();
            let asked: Vec<_> = terms.asked().collect();
            let asked: Vec<_> = asked.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            assert_eq!(asked, want, "{args}");
        }
        check("", &[]);
        check(
            "--pod a --not --http-method GET --verdict DROPPED",
            &[("pod", "a"), ("not-http-method", "GET"), ("verdict", "DROPPED")],
        );
        check("--not --pod a --pod b --not --pod c", &[("not-pod", "a"), ("pod", "b"), ("not-pod", "c")]);
        check(
            "--not --pod=a --port 1 --not --to-port=2",
            &[("not-pod", "a"), ("port", "1"), ("not-to-port", "2")],
        );
        let terms = parse("--not --cel-expression a --cel-expression b").unwrap();
        assert_eq!(terms.expressions().collect::<Vec<_>>(), [(true, "a"), (false, "b")]);
        for args in ["--not", "--pod a --not", "--not --not --pod a"] {
            assert!(parse(args).is_err(), "{args}");
        }
    }

    #[test]
    fn values_survive_their_way_in_a_query() {
        let mut out = String::new();
        encode(&mut out, "^/a+b&c=1%\u{e9}");
        assert_eq!(out, "%5E/a%2Bb%26c%3D1%25%C3%A9");
    }
}
