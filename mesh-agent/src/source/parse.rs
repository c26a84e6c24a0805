//! One document's text to objects and warnings.
//!
//! The kind is taken from the text before it is parsed, so that a valid document is parsed once, straight into its
//! type. A broken document is searched for the name of the object that it meant, whose last valid version stays.

mod failure;
mod fields;
mod guess;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use self::failure::Failure;
use super::document::{Broken, Parsed};
use crate::history::{self, Text};
use crate::model::{ObjectName, Warning, WarningCode};
use crate::objects::traffic_policy::TrafficPolicy;
use crate::objects::{
    AuthorizationPolicy, BackendTlsPolicy, BackendTrafficPolicy, ConfigMap, DestinationRule, EndpointSlice,
    GrpcRoute, HttpRoute, Kind, Known, Namespace, Node, Object, ObjectKey, PeerAuthentication, Pod,
    ReferenceGrant, RequestAuthentication, Service, ServiceAccount, ServiceEntry, TcpRoute, TlsRoute,
    kind_of,
};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML, possibly several documents.
    Yaml,
    /// JSON, one document.
    Json,
}

const LAST_VALID: &str = "the last valid version of it, if any, stays in force until this is corrected";

/// What tells of which type a document is; read by itself only where the quick look doesn't do.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: Value,
    kind: Value,
    metadata: Value,
}

/// A list's items, each of which is an object.
#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// Text of a document, or an item of a list that was already parsed without a type.
#[derive(Clone, Copy)]
enum Input<'a> {
    Yaml(&'a str),
    Json(&'a str),
    Item(&'a Value),
}

/// Parses one document.
pub fn parse(text: &str, format: Format) -> Parsed {
    let mut parsed = Parsed::default();
    let line = guess::first_line(text);
    let input = match format {
        Format::Yaml => Input::Yaml(text),
        Format::Json => Input::Json(text),
    };
    if format == Format::Yaml
        && let Some(kind) = guess::kind(text)
        && let Ok(read) = input.object(kind)
    {
        parsed.accept(read, input, line);
        return parsed;
    }
    match input.read::<Header>() {
        Ok(header) => parsed.dispatch(&header, input, line),
        Err(failure) => parsed.unreadable(text, input, &failure, line),
    }
    parsed
}

/// Parses one object that was read without a type.
pub fn parse_value(value: &Value) -> Parsed {
    let (mut parsed, input) = (Parsed::default(), Input::Item(value));
    match input.read::<Header>() {
        Ok(header) => parsed.dispatch(&header, input, 1),
        Err(_) => parsed.not_an_object("an object", &Header::default(), 1),
    }
    parsed
}

/// Parses one object's JSON of which it is known what it is: items of an API server's lists don't say so themselves.
pub fn parse_known(key: ObjectKey, json: &str) -> Parsed {
    let (mut parsed, input) = (Parsed::default(), Input::Json(json));
    match input.object(key.kind) {
        Ok(read) => parsed.accept(read, input, 1),
        Err(failure) => {
            // JSON is YAML, whose parser knows the paths of fields.
            let better = Input::Yaml(json).object(key.kind).err();
            let failure = Failure { line: None, ..better.unwrap_or(failure) };
            parsed.refuse(key, &failure, input, 1);
        }
    }
    parsed
}

impl Parsed {
    /// By what the header says.
    fn dispatch(&mut self, header: &Header, input: Input<'_>, line: u32) {
        let (Some(api_version), Some(kind)) = (header.api_version.as_str(), header.kind.as_str()) else {
            return self.not_an_object("apiVersion and kind", header, line);
        };
        let shown = || header.shown(kind);
        match kind_of(api_version, kind) {
            Known::Read(kind) => self.object(kind, header, input, line),
            Known::List => self.list(input, line),
            Known::NotYet(consequence) => self.report(
                Warning::new(
                    WarningCode::UnsupportedKind,
                    shown(),
                    "kind",
                    format!("{kind} ({api_version}) is not supported by this version: {consequence}"),
                ),
                line,
            ),
            Known::OtherVersion(version) => {
                self.broken.extend(header.name().map(Broken::Named));
                let message = format!("{api_version} is not read: write apiVersion {version}; {LAST_VALID}");
                self.report(Warning::new(WarningCode::UnknownKind, shown(), "apiVersion", message), line);
            }
            Known::Foreign(whose) => {
                let message = format!(
                    "{kind} is another controller's kind: {whose} acts on it and checks it, the agent leaves it alone"
                );
                self.report(Warning::new(WarningCode::ForeignKind, shown(), "kind", message), line);
            }
            Known::Unknown => {
                self.broken.extend(header.name().map(Broken::Named));
                let message = format!(
                    "{kind} ({api_version}) is unknown to the agent and has no effect: check its spelling or remove it"
                );
                self.report(Warning::new(WarningCode::UnknownKind, shown(), "kind", message), line);
            }
        }
    }

    fn object(&mut self, kind: Kind, header: &Header, input: Input<'_>, line: u32) {
        let Some(name) = header.field("name") else {
            return self.not_an_object("metadata.name", header, line);
        };
        match input.object(kind) {
            Ok(read) => self.accept(read, input, line),
            Err(failure) => {
                self.refuse(ObjectKey::new(kind, header.field("namespace"), name), &failure, input, line)
            }
        }
    }

    fn list(&mut self, input: Input<'_>, line: u32) {
        let list = match input.read::<List>() {
            Ok(list) => list,
            Err(failure) => {
                self.broken.push(Broken::Unknown);
                let message = format!("{}; what the file defined before stays in force", failure.message);
                let warning = Warning::new(WarningCode::InvalidField, "List", failure.field, message);
                return self.report(warning, failure.line.unwrap_or(line));
            }
        };
        for item in &list.items {
            let input = Input::Item(item);
            match input.read::<Header>() {
                Ok(header) if header.kind.as_str() != Some("List") => self.dispatch(&header, input, line),
                _ => self.not_an_object("objects under items", &Header::default(), line),
            }
        }
    }

    /// Takes a parsed object if it is valid by itself.
    fn accept(&mut self, (object, unknown): (Object, Vec<String>), input: Input<'_>, line: u32) {
        match object.validate() {
            Ok(()) => {
                let key = object.key();
                for field in unknown {
                    let message = format!(
                        "{} has no such field: it has no effect; check its spelling, its place and its indentation, or remove it",
                        key.kind.name()
                    );
                    self.report(Warning::new(WarningCode::UnknownField, &key, field, message), line);
                }
                self.texts.push(history::is_kept(object.kind()).then(|| input.words()));
                self.objects.push((Arc::new(object), line));
            }
            Err(error) => {
                let failure = Failure { field: error.field, message: error.message, line: None };
                self.refuse(object.key(), &failure, input, line);
            }
        }
    }

    fn refuse(&mut self, key: ObjectKey, failure: &Failure, input: Input<'_>, line: u32) {
        let message = format!("{}; {LAST_VALID}", failure.message);
        let warning = Warning::new(failure.code(), &key, failure.field.clone(), message);
        self.stand_in(key.kind, &input.read().unwrap_or_default(), line);
        self.broken.push(Broken::Key(key));
        self.report(warning, failure.line.unwrap_or(line));
    }

    /// A policy that isn't valid allows nothing, lets no token hold and lets nothing be sent where it asks for TLS, unless a valid version of it is in force.
    fn stand_in(&mut self, kind: Kind, document: &Value, line: u32) {
        let stand_in = match kind {
            Kind::AuthorizationPolicy => {
                AuthorizationPolicy::stand_in(document).map(Box::new).map(Object::AuthorizationPolicy)
            }
            Kind::RequestAuthentication => {
                RequestAuthentication::stand_in(document).map(Box::new).map(Object::RequestAuthentication)
            }
            Kind::BackendTlsPolicy => {
                BackendTlsPolicy::stand_in(document).map(Box::new).map(Object::BackendTlsPolicy)
            }
            _ => None,
        };
        self.stand_ins.extend(stand_in.map(|policy| (Arc::new(policy), line)));
    }

    fn not_an_object(&mut self, wanted: &str, header: &Header, line: u32) {
        self.broken.push(Broken::Unknown);
        let message = format!(
            "expected {wanted}, as in every Kubernetes object; what the file defined before stays in force"
        );
        self.report(Warning::new(WarningCode::NotAnObject, header.shown(""), "", message), line);
    }

    fn unreadable(&mut self, text: &str, input: Input<'_>, failure: &Failure, line: u32) {
        if input.read::<Value>().is_ok() {
            return self.not_an_object(
                "a mapping with apiVersion, kind and metadata.name",
                &Header::default(),
                line,
            );
        }
        let key = guess::key(text);
        let shown = key.as_ref().map(ToString::to_string).unwrap_or_default();
        let message = format!("{}; the rest of the file is used, and {LAST_VALID}", failure.message);
        if let Some(key) = &key {
            self.stand_in(key.kind, &named_only(key), line);
        }
        self.broken.push(key.map_or(Broken::Unknown, Broken::Key));
        self.report(
            Warning::new(WarningCode::BrokenYaml, shown, failure.field.clone(), message),
            failure.line.unwrap_or(line),
        );
    }

    fn report(&mut self, warning: Warning, line: u32) {
        self.problems.push((warning, line));
    }
}

impl Header {
    fn field(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    fn name(&self) -> Option<ObjectName> {
        self.field("name").map(|name| ObjectName::new(self.field("namespace").unwrap_or_default(), name))
    }

    /// For people: kind, namespace and name as far as known.
    fn shown(&self, kind: &str) -> String {
        let name = match (self.field("namespace"), self.field("name")) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => name.to_owned(),
            (_, None) => String::new(),
        };
        format!("{kind} {name}").trim().to_owned()
    }
}

impl Input<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, Failure> {
        match self {
            Self::Yaml(text) => serde_yaml_ng::from_str(text).map_err(Failure::yaml),
            Self::Json(text) => serde_json::from_str(text).map_err(Failure::json),
            Self::Item(value) => T::deserialize(value).map_err(|error| Failure::item::<T>(value, error)),
        }
    }

    /// As it was written; an item of a list on its own.
    fn words(self) -> Text {
        match self {
            Self::Yaml(text) | Self::Json(text) => Text::from(text.trim_matches('\n')),
            Self::Item(value) => serde_yaml_ng::to_string(value).unwrap_or_default().into(),
        }
    }

    /// The object, and the fields that it can't have where all of its kind's are read.
    fn object(self, kind: Kind) -> Result<(Object, Vec<String>), Failure> {
        let mut unknown = Vec::new();
        let fields = &mut unknown;
        let object = match kind {
            Kind::Namespace => Object::Namespace(self.read::<Namespace>()?),
            Kind::Node => Object::Node(self.read::<Node>()?),
            Kind::ServiceAccount => Object::ServiceAccount(self.read::<ServiceAccount>()?),
            Kind::ConfigMap => Object::ConfigMap(self.read::<ConfigMap>()?),
            Kind::Pod => Object::Pod(Box::new(self.read::<Pod>()?)),
            Kind::Service => Object::Service(Box::new(self.read::<Service>()?)),
            Kind::EndpointSlice => Object::EndpointSlice(self.read::<EndpointSlice>()?),
            Kind::HttpRoute => Object::HttpRoute(Box::new(self.read_all::<HttpRoute>(fields)?)),
            Kind::GrpcRoute => Object::GrpcRoute(Box::new(self.read_all::<GrpcRoute>(fields)?)),
            Kind::TlsRoute => Object::TlsRoute(Box::new(self.read_all::<TlsRoute>(fields)?)),
            Kind::TcpRoute => Object::TcpRoute(Box::new(self.read_all::<TcpRoute>(fields)?)),
            Kind::ReferenceGrant => {
                Object::ReferenceGrant(Box::new(self.read_all::<ReferenceGrant>(fields)?))
            }
            Kind::BackendTrafficPolicy => {
                Object::BackendTrafficPolicy(Box::new(self.read_all::<BackendTrafficPolicy>(fields)?))
            }
            Kind::BackendTlsPolicy => {
                Object::BackendTlsPolicy(Box::new(self.read_all::<BackendTlsPolicy>(fields)?))
            }
            Kind::TrafficPolicy => Object::TrafficPolicy(Box::new(self.read_all::<TrafficPolicy>(fields)?)),
            Kind::DestinationRule => {
                let mut rule = self.read::<DestinationRule>()?;
                rule.note_fields(&self.read()?);
                Object::DestinationRule(Box::new(rule))
            }
            Kind::AuthorizationPolicy => {
                let mut policy = self.read::<AuthorizationPolicy>()?;
                policy.note_fields(&self.read()?);
                Object::AuthorizationPolicy(Box::new(policy))
            }
            Kind::RequestAuthentication => {
                let mut policy = self.read::<RequestAuthentication>()?;
                policy.note_fields(&self.read()?);
                Object::RequestAuthentication(Box::new(policy))
            }
            Kind::ServiceEntry => {
                let mut entry = self.read::<ServiceEntry>()?;
                entry.note_fields(&self.read()?);
                Object::ServiceEntry(Box::new(entry))
            }
            Kind::PeerAuthentication => {
                Object::PeerAuthentication(Box::new(self.read_all::<PeerAuthentication>(fields)?))
            }
        };
        Ok((object, unknown))
    }

    /// As [`Self::read`]; the paths of fields that `T` doesn't have go to `unknown`.
    fn read_all<T: DeserializeOwned>(self, unknown: &mut Vec<String>) -> Result<T, Failure> {
        let mut note = |path: serde_ignored::Path<'_>| unknown.extend(fields::unknown(&path));
        match self {
            Self::Yaml(text) => {
                let input = serde_yaml_ng::Deserializer::from_str(text);
                serde_ignored::deserialize(input, &mut note).map_err(Failure::yaml)
            }
            Self::Json(text) => {
                let mut input = serde_json::Deserializer::from_str(text);
                let read = serde_ignored::deserialize(&mut input, &mut note);
                read.and_then(|read| input.end().map(|()| read)).map_err(Failure::json)
            }
            Self::Item(value) => {
                serde_ignored::deserialize(value, &mut note).map_err(|error| Failure::item::<T>(value, error))
            }
        }
    }
}

/// A document that says no more than whose it is.
fn named_only(key: &ObjectKey) -> Value {
    let metadata = [("name", &key.name.name), ("namespace", &key.name.namespace)];
    let metadata = metadata.into_iter().map(|(field, text)| (field.into(), text.as_str().into()));
    Value::Mapping([("metadata".into(), Value::Mapping(metadata.collect()))].into_iter().collect())
}

#[cfg(test)]
mod tests;
