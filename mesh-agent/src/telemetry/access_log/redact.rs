//! Tokens in a request's target, taken out before a line has them: a log is read by more people than a token is for.
//!
//! What looks like a JWT is left out whatever its parameter is called, and whether it was refused or not. Used where the line of
//! a request is made.

use std::borrow::Cow;

/// How every JWT begins: base64url of `{"`.
const BEGIN: &str = "eyJ";
const STAND_IN: &str = "[token]";

/// The target without what looks like a token.
pub fn tokens(target: &str) -> Cow<'_, str> {
    let Some(at) = target.find('?').filter(|at| target[*at..].contains(BEGIN)) else {
        return Cow::Borrowed(target);
    };
    let mut out = String::with_capacity(target.len());
    let (mut rest, behind) = target.split_at(at);
    out.push_str(rest);
    rest = behind;
    while let Some(at) = rest.find(BEGIN) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        out.push_str(STAND_IN);
        let end = token.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')));
        rest = &token[end.unwrap_or(token.len())..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_a_query_are_left_out_and_all_else_stays() {
        fn check(target: &str, want: &str) {
            assert_eq!(tokens(target), want);
        }
        check("/a?b=1", "/a?b=1");
        check("/eyJ/a?b=1", "/eyJ/a?b=1");
        check("/a?access_token=eyJhbGci.eyJzdWIi.sig-_&b=1", "/a?access_token=[token]&b=1");
        check("/a?x=1&t=eyJhbGci%2EeyJ.x", "/a?x=1&t=[token]");
        check("/a?t=eyJa.b.c&u=eyJd.e.f", "/a?t=[token]&u=[token]");
    }
}
