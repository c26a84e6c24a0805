//! The renderer by itself: what it does with values, and that it refuses what it doesn't know. Suites hold it against Helm.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::parse::Templates;
use super::{AGENT, CRDS, Chart, Release, assign, eval, merge, render};

fn release() -> Release {
    Release { name: "mesh-agent".into(), namespace: "mesh".into(), service: "mesh-agent".into() }
}

fn text(template: &str, root: &Value) -> Result<String, String> {
    let templates = Templates::parse(
        [("a.tpl", "{{ define \"two\" }}{{ . }}{{ . }}{{ end }}"), ("a.yaml", template)].into_iter(),
    );
    let templates = templates.map_err(|error| error.to_string())?;
    let file = templates.files().next().unwrap();
    eval::render(&templates, file, root).map_err(|error| error.to_string())
}

#[test]
fn templates_are_read_as_go_reads_them() {
    let root = json!({"Files": {"x/y.json": "{}"}, "a": {"b": 1, "c": "x", "none": "", "list": ["p", "q"], "map": {"k": "v", "j": true}}});
    for (template, want) in [
        ("a {{ .a.b }} b", "a 1 b"),
        ("a\n  {{- .a.c }}  \n{{ .a.c -}}  \n b", "ax  \nxb"),
        ("{{/* a comment */ -}} \n x", "x"),
        ("{{ if .a.none }}yes{{ else if .a.c }}c{{ else }}no{{ end }}", "c"),
        ("{{ if and .a.c (not .a.none) }}yes{{ end }}", "yes"),
        ("{{ if or .a.none (eq .a.c \"y\" \"x\") }}yes{{ end }}", "yes"),
        ("{{ with .a.none }}yes{{ else }}no{{ end }}", "no"),
        ("{{ with .a.map }}{{ .k }}{{ $.a.b }}{{ end }}", "v1"),
        ("{{ range .a.list }}[{{ . }}]{{ end }}", "[p][q]"),
        ("{{ range $k, $v := .a.map }}{{ $k }}={{ $v }};{{ end }}", "j=true;k=v;"),
        ("{{ $x := .a.c }}{{ if true }}{{ $x }}{{ end }}", "x"),
        ("{{ .a.none | default \"d\" | quote }}", "\"d\""),
        ("{{ printf \"%s-%v\" .a.c .a.b }}", "x-1"),
        ("{{ include \"two\" .a.c | indent 2 }}", "  xx"),
        ("x:{{ toYaml .a.map | nindent 2 }}", "x:\n  \"j\": true\n  \"k\": \"v\""),
        ("{{ .a.missing }}", ""),
        ("{{ .Files.Get \"x/y.json\" | indent 1 }}", " {}"),
        ("{{ \"x\" | sha256sum }}", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
    ] {
        assert_eq!(text(template, &root).as_deref(), Ok(want), "{template}");
    }
}

#[test]
fn what_is_not_known_is_an_error_with_its_place() {
    let root = json!({"a": {"b": 1}});
    for (template, want) in [
        ("x\n{{ lookup \"v1\" }}", "a.yaml:2: lookup: isn't known"),
        ("{{ .Files.Get \"b\" }}", "the chart has no file \"b\""),
        ("{{ .Other.Get \"a\" }}", "only functions take arguments"),
        ("{{ if .a }}", "`end` is missing"),
        ("{{ end }}", "end belongs to nothing"),
        ("{{ .a.b.c }}", "c is asked of what has no fields"),
        ("{{ .a", "isn't closed"),
        ("{{ $x }}", "there is no $x"),
        ("{{ include \"three\" . }}", "there is no template three"),
        ("{{ .a ! }}", "'!' isn't expected"),
        ("{{ printf \"%d\" 1 }}", "knows only"),
        ("{{ fail \"because\" }}", "because"),
    ] {
        let error = text(template, &root).unwrap_err();
        assert!(error.contains(want), "{template}: {error}");
    }
}

#[test]
fn set_reads_what_helm_reads() {
    let mut values = json!({"a": {"b": 1, "c": 2}});
    for set in ["a.b=3,a.d=x=y", "e\\.f/g=v", "l={1,b,true}", "n=null", "z=007", "s=a\\,b", "o={}"] {
        assign(&mut values, set).unwrap();
    }
    let want = json!({"a": {"b": 3, "c": 2, "d": "x=y"}, "e.f/g": "v", "l": [1, "b", true], "n": null, "z": "007",
        "s": "a,b", "o": []});
    assert_eq!(values, want);
    for (set, why) in [("a", "KEY=VALUE"), (".a=1", "empty"), ("a[0]=1", "indices")] {
        let error = assign(&mut values, set).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(set), "{error}");
    }
}

#[test]
fn values_are_merged_as_helm_merges_them() {
    let mut values = json!({"a": {"b": 1, "c": {"d": 2}}, "l": [1]});
    merge(&mut values, json!({"a": {"b": null, "c": {"e": 3}}, "l": []}));
    assert_eq!(values, json!({"a": {"c": {"d": 2, "e": 3}}, "l": []}));
}

#[test]
fn a_value_that_the_chart_does_not_have_or_allow_is_named() {
    for (set, want) in [
        ("imag.tag=x", "imag: there is no such value"),
        ("agent.metricsPort=x", "agent.metricsPort: is string, expected integer"),
        ("agent.metricsPort=0", "agent.metricsPort: is 0, expected 1 or more"),
        ("controller.replicas=99", "controller.replicas: is 99, expected 9 or less"),
        ("image.pullPolicy=Sometimes", "image.pullPolicy: is \"Sometimes\", expected one of"),
        ("agent.config.source=dir:/x", "agent.config.source: is set by the chart itself"),
        ("agent.ca=letsencrypt", "agent.ca: is \"letsencrypt\""),
        ("image.repository=", "image.repository: is too short"),
        ("controller.enabled=false", "name who signs"),
        ("agent.tolerations={a}", "agent.tolerations[0]: is string"),
    ] {
        let mut values = json!({});
        assign(&mut values, set).unwrap();
        let error = render(&AGENT, values, &release()).unwrap_err().to_string();
        assert!(error.contains(want), "{set}: {error}");
    }
}

#[test]
fn everything_that_is_rendered_is_an_object() {
    for (chart, least) in [(&CRDS, 1), (&AGENT, 15)] {
        let text = render(chart, json!({}), &release()).unwrap();
        let mut seen = 0;
        for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
            let object: Value = serde_yaml_ng::from_str(document).unwrap();
            assert!(object["kind"].is_string() && object["metadata"]["name"].is_string(), "{document}");
            seen += 1;
        }
        assert!(seen >= least, "{seen}");
    }
}

fn files(dir: &Path, below: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, below, into);
        } else if path.file_name().is_some_and(|name| name != ".helmignore") {
            into.insert(path.strip_prefix(below).unwrap().to_owned());
        }
    }
}

#[test]
fn the_binary_has_every_file_of_the_charts() {
    let check = |chart: &Chart| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts").join(chart.name);
        let mut there = BTreeSet::new();
        files(&dir, &dir, &mut there);
        let known: BTreeSet<PathBuf> = chart.files.iter().map(|(file, _)| PathBuf::from(file)).collect();
        assert_eq!(known, there);
    };
    check(&CRDS);
    check(&AGENT);
}

#[test]
fn charts_and_program_have_one_version() {
    for chart in [&CRDS, &AGENT] {
        let about = chart.about().unwrap();
        assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
        assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    }
}
