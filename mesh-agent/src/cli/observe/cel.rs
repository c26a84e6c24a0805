//! `--cel-expression`: which flows are shown, in the Common Expression Language, as Hubble has it.

use cel::{Context, Program, Value};

use crate::admin::api::flow::Flow;
use crate::cli::{Exit, Failure};

/// The name that Hubble has for it.
const FLOW: &str = "_flow";

/// Compiled once. A flow is shown if one of them is true, and none that is negated.
pub(super) struct Expressions {
    wanted: Vec<Program>,
    unwanted: Vec<Program>,
}

impl Expressions {
    pub(super) fn new<'a>(expressions: impl Iterator<Item = (bool, &'a str)>) -> Result<Self, Failure> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for (negated, text) in expressions {
            let program = Program::compile(text).map_err(|error| {
                let error = anyhow::Error::msg(error.to_string());
                Failure::new(Exit::Usage, error.context(format!("{text:?} is no expression in CEL")))
            })?;
            if negated { unwanted.push(program) } else { wanted.push(program) }
        }
        Ok(Self { wanted, unwanted })
    }

    /// An expression that fails, for instance since the flow has no such field, isn't true.
    pub(super) fn match_flow(&self, flow: &Flow) -> bool {
        if self.wanted.is_empty() && self.unwanted.is_empty() {
            return true;
        }
        let Ok(value) = cel::to_value(flow) else { return false };
        let mut context = Context::default();
        context.add_variable_from_value(FLOW, value);
        let holds = |program: &Program| matches!(program.execute(&context), Ok(Value::Bool(true)));
        (self.wanted.is_empty() || self.wanted.iter().any(holds)) && !self.unwanted.iter().any(holds)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admin::api::flow::{FlowL7, Verdict};

    #[test]
    fn expressions_see_the_flow_as_json_shows_it() {
        fn check(expressions: &[(bool, &str)], want: bool) {
            let l7 =
                FlowL7 { method: "GET".into(), path: "/cart/1".into(), status: 503, ..FlowL7::default() };
            let flow = Flow {
                verdict: Verdict::Error,
                duration_ms: 12.5,
                bytes_sent: 7,
                l7: Some(l7),
                ..Flow::default()
            };
            let expressions = Expressions::new(expressions.iter().copied()).unwrap();
            assert_eq!(expressions.match_flow(&flow), want);
        }
        check(&[], true);
        check(&[(false, "_flow.verdict == 'ERROR' && _flow.l7.path.startsWith('/cart')")], true);
        check(&[(false, "_flow.l7.status >= 500 && _flow.l7.status < 504")], true);
        check(&[(false, "_flow.l7.status == 503")], true);
        check(&[(false, "_flow.durationMs > 10.0 && _flow.bytesSent == 7")], true);
        check(&[(false, "_flow.l7.status in [500, 503]")], true);
        check(&[(false, "_flow.l7.method.matches('^P')")], false);
        check(&[(false, "has(_flow.service)")], false);
        check(&[(false, "_flow.service.name == 'x'")], false);
        check(&[(false, "_flow.l7.status")], false);
        check(&[(false, "false"), (false, "true")], true);
        check(&[(true, "_flow.verdict == 'ERROR'")], false);
        check(&[(true, "_flow.nothing == 1")], true);
        assert!(Expressions::new([(false, "_flow.")].into_iter()).is_err());
    }
}
