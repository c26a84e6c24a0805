//! Go templates, last step: a tree and data make text.

use serde_json::Value;

use super::parse::{File, Node, Operand, Pipe, Templates};
use super::{ManifestsError, functions};

/// A template may include others so deep; one that includes itself never ends.
const DEEPEST: usize = 16;

/// The text of `file` with `root` as its data.
pub fn render(templates: &Templates, file: &File, root: &Value) -> Result<String, ManifestsError> {
    Scope { templates, file: &file.name, root, variables: Vec::new(), depth: 0 }.text(&file.body, root)
}

/// `.Files.Get`, the one field that takes an argument.
fn is_get(fields: &[String]) -> bool {
    fields == ["Files", "Get"]
}

/// What a template sees.
struct Scope<'a> {
    templates: &'a Templates,
    file: &'a str,
    /// `$`.
    root: &'a Value,
    /// The innermost last.
    variables: Vec<(String, Value)>,
    depth: usize,
}

impl Scope<'_> {
    fn failed(&self, line: usize, why: impl Into<String>) -> ManifestsError {
        ManifestsError::Template { file: self.file.to_owned(), line, why: why.into() }
    }

    fn text(&mut self, nodes: &[Node], dot: &Value) -> Result<String, ManifestsError> {
        let mut out = String::new();
        let known = self.variables.len();
        for node in nodes {
            self.node(node, dot, &mut out)?;
        }
        self.variables.truncate(known);
        Ok(out)
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<(), ManifestsError> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Show(pipe) => out.push_str(&functions::shown(&self.value(pipe, dot)?)),
            Node::Let(name, pipe) => {
                let value = self.value(pipe, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if functions::truth(&self.value(condition, dot)?) {
                        out.push_str(&self.text(body, dot)?);
                        return Ok(());
                    }
                }
                out.push_str(&self.text(otherwise, dot)?);
            }
            Node::With(pipe, body, otherwise) => {
                let value = self.value(pipe, dot)?;
                let text = if functions::truth(&value) {
                    self.text(body, &value)
                } else {
                    self.text(otherwise, dot)
                };
                out.push_str(&text?);
            }
            Node::Range(names, over, body) => {
                let all = match self.value(over, dot)? {
                    Value::Object(map) => map.into_iter().map(|(key, value)| (key.into(), value)).collect(),
                    Value::Array(list) => {
                        list.into_iter().enumerate().map(|(at, it)| (at.into(), it)).collect()
                    }
                    Value::Null => Vec::<(Value, Value)>::new(),
                    _ => return Err(self.failed(over.line, "only maps and lists can be ranged over")),
                };
                for (key, value) in all {
                    let known = self.variables.len();
                    if let Some((key_name, value_name)) = names {
                        self.variables.push((key_name.clone(), key));
                        self.variables.push((value_name.clone(), value.clone()));
                    }
                    out.push_str(&self.text(body, &value)?);
                    self.variables.truncate(known);
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, ManifestsError> {
        let mut passed = None;
        for command in &pipe.commands {
            passed = Some(self.command(command, passed, pipe.line, dot)?);
        }
        Ok(passed.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &[Operand],
        passed: Option<Value>,
        line: usize,
        dot: &Value,
    ) -> Result<Value, ManifestsError> {
        match command {
            [Operand::Function(name), arguments @ ..] => {
                // `and` and `or` stop where they know, as Go's do.
                let mut values = Vec::new();
                for argument in arguments {
                    let value = self.operand(argument, line, dot)?;
                    let decided = match name.as_str() {
                        "and" => !functions::truth(&value),
                        "or" => functions::truth(&value),
                        _ => false,
                    };
                    values.push(value);
                    if decided {
                        return Ok(values.pop().unwrap_or_default());
                    }
                }
                values.extend(passed);
                match name.as_str() {
                    "include" => self.include(&values, line),
                    _ => functions::call(name, values).map_err(|why| match why {
                        functions::Failed::Function(why) => self.failed(line, format!("{name}: {why}")),
                        functions::Failed::Refused(why) => ManifestsError::Refused(why),
                    }),
                }
            }
            [Operand::Field(fields), name] if passed.is_none() && is_get(fields) => {
                let name = self.operand(name, line, dot)?;
                let file = name.as_str().and_then(|name| dot.get("Files")?.get(name)).cloned();
                file.ok_or_else(|| self.failed(line, format!("the chart has no file {name}")))
            }
            [operand] if passed.is_none() => self.operand(operand, line, dot),
            _ => Err(self.failed(line, "only functions take arguments")),
        }
    }

    fn operand(&mut self, operand: &Operand, line: usize, dot: &Value) -> Result<Value, ManifestsError> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(fields) => self.field(dot, fields, line),
            Operand::Variable(name, fields) if name.is_empty() => self.field(self.root, fields, line),
            Operand::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| self.failed(line, format!("there is no ${name}")))?;
                self.field(value, fields, line)
            }
            Operand::Pipe(pipe) => self.value(pipe, dot),
            Operand::Function(_) => self.command(std::slice::from_ref(operand), None, line, dot),
        }
    }

    /// A field that a map lacks is null; a field of what is no map is a mistake.
    fn field(&self, value: &Value, fields: &[String], line: usize) -> Result<Value, ManifestsError> {
        let mut value = value;
        for field in fields {
            let Value::Object(map) = value else {
                return Err(self.failed(line, format!("{field} is asked of what has no fields")));
            };
            value = map.get(field).unwrap_or(&Value::Null);
        }
        Ok(value.clone())
    }

    fn include(&mut self, values: &[Value], line: usize) -> Result<Value, ManifestsError> {
        let [Value::String(name), dot] = values else {
            return Err(self.failed(line, "include needs a name and a value"));
        };
        let found = self.templates.named(name);
        let file = found.ok_or_else(|| self.failed(line, format!("there is no template {name}")))?;
        if self.depth == DEEPEST {
            return Err(self.failed(line, format!("{name} includes itself")));
        }
        let mut inner = Scope {
            templates: self.templates,
            file: &file.name,
            root: dot,
            variables: Vec::new(),
            depth: self.depth + 1,
        };
        Ok(inner.text(&file.body, dot)?.into())
    }
}
