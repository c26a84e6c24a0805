//! What a route's fields come to otherwise than they read, though the API takes them: names that differ in case alone,
//! replacements that are no path, fields that no request has when it is matched, one header under two actions.
//!
//! Asked by `status`, which makes warnings of it. Looks at one route alone; sessions under one name are for
//! `super::super::sessions`, which looks at all.

use super::status::{Complaint, all_filters};
use super::view::RouteView;
use crate::model::WarningCode;
use crate::objects::Object;
use crate::objects::gateway::{HeaderLine, HeaderModifier, encoded};

/// Fields that end at this hop, so that a request that came by HTTP/1 has none of them when it is matched (RFC 9110,
/// 7.6.1), and one that came by HTTP/2 can't have any (RFC 9113, 8.2.2).
const OF_THIS_HOP: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "http2-settings"];

/// All of it: code, field, message.
pub fn of(view: RouteView<'_>) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (path, names) in matched_headers(view) {
        doubles(&format!("{path}.headers"), ".name", &names, &mut found);
        for (index, name) in names.iter().enumerate() {
            if OF_THIS_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name)) {
                let message = format!(
                    "{name:?} belongs to one connection and is no part of a request when it is matched: the match never holds; match another header"
                );
                found.push(unsupported(format!("{path}.headers[{index}].name"), message));
            }
        }
    }
    for (path, filter) in all_filters(view) {
        let modifiers = [
            ("requestHeaderModifier", &filter.request_header_modifier),
            ("responseHeaderModifier", &filter.response_header_modifier),
        ];
        for (field, modifier) in modifiers {
            if let Some(modifier) = modifier {
                let path = format!("{path}.{field}");
                lists(&path, modifier, &mut found);
                actions(&path, modifier, &mut found);
            }
        }
        if let Some((field, modifier)) = filter.path_modifier() {
            let paths = [
                ("replaceFullPath", modifier.replace_full_path.as_deref()),
                ("replacePrefixMatch", modifier.replace_prefix_match.as_deref()),
            ];
            for (kind, text) in paths {
                let Some(text) = text.filter(|text| encoded(text) != **text) else { continue };
                let message = format!(
                    "{text:?} has characters that no path has: it is sent as {:?}; write it so, or leave them out (the query stays the client's)",
                    encoded(text)
                );
                found.push(unsupported(format!("{path}.{field}.{kind}"), message));
            }
        }
    }
    found
}

fn unsupported(field: String, message: String) -> Complaint {
    (WarningCode::UnsupportedValue, field, message)
}

/// The path of each match, and the names of its headers.
fn matched_headers(view: RouteView<'_>) -> Vec<(String, Vec<&str>)> {
    let path = |rule: usize, index: usize| format!("spec.rules[{rule}].matches[{index}]");
    let mut all = Vec::new();
    match view.object {
        Object::HttpRoute(route) => {
            for (rule, spec) in route.spec.rules.iter().enumerate() {
                let names = spec.matches.iter().map(|one| one.headers.iter().map(|h| &*h.name).collect());
                all.extend(names.enumerate().map(|(index, names)| (path(rule, index), names)));
            }
        }
        Object::GrpcRoute(route) => {
            for (rule, spec) in route.spec.rules.iter().enumerate() {
                let names = spec.matches.iter().map(|one| one.headers.iter().map(|h| &*h.name).collect());
                all.extend(names.enumerate().map(|(index, names)| (path(rule, index), names)));
            }
        }
        _ => {}
    }
    all
}

fn lists(path: &str, modifier: &HeaderModifier, found: &mut Vec<Complaint>) {
    for (list, lines) in [("set", &modifier.set), ("add", &modifier.add)] {
        let names: Vec<&str> = lines.iter().map(|line| &*line.name).collect();
        doubles(&format!("{path}.{list}"), ".name", &names, found);
    }
}

/// "Subsequent entries with an equivalent header name MUST be ignored" (HTTPHeaderMatch.name, HTTPHeader.name).
fn doubles(list: &str, part: &str, names: &[&str], found: &mut Vec<Complaint>) {
    for (index, name) in names.iter().enumerate() {
        if let Some(earlier) = names[..index].iter().find(|earlier| earlier.eq_ignore_ascii_case(name)) {
            let message = format!(
                "{name:?} is the same header as {earlier:?}, and the first of them counts: this one is ignored; remove it"
            );
            found.push(unsupported(format!("{list}[{index}]{part}"), message));
        }
    }
}

/// Names that one modifier gives more than one action, which no rule of the CRD holds back.
fn actions(path: &str, modifier: &HeaderModifier, found: &mut Vec<Complaint>) {
    let lines = |lines: &[HeaderLine]| lines.iter().map(|line| line.name.to_ascii_lowercase()).collect();
    let removed = modifier.remove.iter().map(|name| name.to_ascii_lowercase()).collect();
    let lists: [(&str, &str, Vec<String>); 3] = [
        ("set", ".name", lines(&modifier.set)),
        ("add", ".name", lines(&modifier.add)),
        ("remove", "", removed),
    ];
    for (place, (list, part, names)) in lists.iter().enumerate() {
        for (index, name) in names.iter().enumerate() {
            let earlier = lists[..place].iter().filter(|(.., others)| others.contains(name));
            let earlier: Vec<&str> = earlier.map(|(other, ..)| *other).collect();
            if !earlier.is_empty() {
                let message = format!(
                    "{name:?} stands under {} and {list} of one filter, which the API calls invalid: set goes first, then add, then remove, so that the last of them decides; keep one",
                    earlier.join(", ")
                );
                found.push((WarningCode::Contradiction, format!("{path}.{list}[{index}]{part}"), message));
            }
        }
    }
}
