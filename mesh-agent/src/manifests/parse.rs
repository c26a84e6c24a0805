//! Go templates, second step: from pieces to a tree. Named templates of all files are known to every file.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ManifestsError;
use super::lexer::{Piece, Word, pieces};

/// The templates of a chart.
#[derive(Debug, Default)]
pub struct Templates {
    /// Those that make objects, in the order of the chart.
    files: Vec<File>,
    /// `define`d ones.
    named: BTreeMap<String, File>,
}

/// A template.
#[derive(Debug)]
pub struct File {
    /// Where it stands.
    pub name: String,
    /// What it says.
    pub body: Vec<Node>,
}

/// A part of a template.
#[derive(Debug)]
pub enum Node {
    /// As it is.
    Text(String),
    /// The value of a pipeline.
    Show(Pipe),
    /// `$x := ...`.
    Let(String, Pipe),
    /// `if`, with each `else if`, then `else`.
    If(Vec<(Pipe, Vec<Self>)>, Vec<Self>),
    /// `with`, and its `else`.
    With(Pipe, Vec<Self>, Vec<Self>),
    /// `range`, with the names of key and value.
    Range(Option<(String, String)>, Pipe, Vec<Self>),
}

/// Commands, each of which gets what the one before came to as its last argument.
#[derive(Debug)]
pub struct Pipe {
    /// One at least.
    pub commands: Vec<Vec<Operand>>,
    /// Where it stands.
    pub line: usize,
}

/// A word of a command.
#[derive(Debug)]
pub enum Operand {
    /// `.A.B`.
    Field(Vec<String>),
    /// `$x.A`.
    Variable(String, Vec<String>),
    /// Text or number.
    Literal(Value),
    /// In parentheses.
    Pipe(Pipe),
    /// A function.
    Function(String),
}

impl Templates {
    /// Parses files, by name and text.
    pub fn parse<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, ManifestsError> {
        let mut templates = Self::default();
        for (name, text) in files {
            let mut parser =
                Parser { file: name, pieces: pieces(name, text)?.into_iter(), templates: &mut templates };
            let (body, _) = parser.block(&[])?;
            if !name.ends_with(".tpl") {
                templates.files.push(File { name: name.to_owned(), body });
            }
        }
        Ok(templates)
    }

    /// Those that make objects.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The one that is `define`d so.
    pub fn named(&self, name: &str) -> Option<&File> {
        self.named.get(name)
    }
}

struct Parser<'a, 't> {
    file: &'a str,
    pieces: std::vec::IntoIter<Piece>,
    templates: &'t mut Templates,
}

/// Nodes, and the action that ended them: its keyword and what follows that.
type Block = (Vec<Node>, Option<(String, Words)>);

/// Words of an action that weren't looked at yet.
struct Words {
    words: std::iter::Peekable<std::vec::IntoIter<Word>>,
    line: usize,
}

impl Parser<'_, '_> {
    fn failed(&self, line: usize, why: impl Into<String>) -> ManifestsError {
        ManifestsError::Template { file: self.file.to_owned(), line, why: why.into() }
    }

    /// Up to an action that begins with one of `ends`, which is given back; with none, to the end of the file.
    fn block(&mut self, ends: &[&str]) -> Result<Block, ManifestsError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (words, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(words, line) => (words, line),
            };
            let mut words = Words { words: words.into_iter().peekable(), line };
            let keyword = match words.words.peek() {
                Some(Word::Name(name)) => name.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                name if ends.contains(&name) => {
                    words.words.next();
                    return Ok((nodes, Some((keyword, words))));
                }
                "else" | "end" => return Err(self.failed(line, format!("{keyword} belongs to nothing"))),
                "if" => nodes.push(self.conditional(words)?),
                "with" => nodes.push(self.with(words)?),
                "range" => nodes.push(self.range(words)?),
                "define" => self.define(words)?,
                _ => nodes.push(self.show(words)?),
            }
        }
        match ends {
            [] => Ok((nodes, None)),
            _ => Err(self.failed(0, "an `end` is missing")),
        }
    }

    fn conditional(&mut self, mut words: Words) -> Result<Node, ManifestsError> {
        let mut branches = Vec::new();
        loop {
            // `if`, which is also behind an `else`.
            words.words.next();
            let condition = self.pipe(&mut words)?;
            let (body, end) = self.block(&["else", "end"])?;
            branches.push((condition, body));
            match end {
                Some((keyword, mut more)) if keyword == "else" => match more.words.peek() {
                    Some(Word::Name(name)) if name == "if" => words = more,
                    None => {
                        let (otherwise, _) = self.block(&["end"])?;
                        return Ok(Node::If(branches, otherwise));
                    }
                    Some(_) => return Err(self.failed(more.line, "expected `else` or `else if`")),
                },
                _ => return Ok(Node::If(branches, Vec::new())),
            }
        }
    }

    fn with(&mut self, mut words: Words) -> Result<Node, ManifestsError> {
        words.words.next();
        let value = self.pipe(&mut words)?;
        let (body, end) = self.block(&["else", "end"])?;
        let otherwise = match end {
            Some((keyword, _)) if keyword == "else" => self.block(&["end"])?.0,
            _ => Vec::new(),
        };
        Ok(Node::With(value, body, otherwise))
    }

    fn range(&mut self, mut words: Words) -> Result<Node, ManifestsError> {
        words.words.next();
        let mut names = None;
        if let Some(Word::Variable(key, _)) = words.words.peek() {
            let key = key.clone();
            words.words.next();
            match (words.words.next(), words.words.next(), words.words.next()) {
                (Some(Word::Sign(",")), Some(Word::Variable(value, _)), Some(Word::Sign(":="))) => {
                    names = Some((key, value));
                }
                _ => return Err(self.failed(words.line, "expected range $key, $value := ...")),
            }
        }
        let over = self.pipe(&mut words)?;
        let (body, _) = self.block(&["end"])?;
        Ok(Node::Range(names, over, body))
    }

    fn define(&mut self, mut words: Words) -> Result<(), ManifestsError> {
        words.words.next();
        let Some(Word::Text(name)) = words.words.next() else {
            return Err(self.failed(words.line, "define needs a name"));
        };
        let (body, _) = self.block(&["end"])?;
        let file = File { name: self.file.to_owned(), body };
        match self.templates.named.insert(name.clone(), file) {
            None => Ok(()),
            Some(_) => Err(self.failed(words.line, format!("{name} is defined twice"))),
        }
    }

    fn show(&mut self, mut words: Words) -> Result<Node, ManifestsError> {
        let mut ahead = words.words.clone();
        if let (Some(Word::Variable(name, _)), Some(Word::Sign(":="))) = (ahead.next(), ahead.next()) {
            words.words = ahead;
            return Ok(Node::Let(name, self.pipe(&mut words)?));
        }
        Ok(Node::Show(self.pipe(&mut words)?))
    }

    /// All that is left.
    fn pipe(&self, words: &mut Words) -> Result<Pipe, ManifestsError> {
        let pipe = self.commands(words)?;
        match words.words.next() {
            None => Ok(pipe),
            Some(word) => Err(self.failed(words.line, format!("{word:?} isn't expected"))),
        }
    }

    fn commands(&self, words: &mut Words) -> Result<Pipe, ManifestsError> {
        let (mut commands, mut command) = (Vec::new(), Vec::new());
        let line = words.line;
        while let Some(word) = words.words.next_if(|word| *word != Word::Sign(")")) {
            command.push(match word {
                Word::Sign("|") => {
                    commands.push(std::mem::take(&mut command));
                    continue;
                }
                Word::Sign("(") => {
                    let inner = self.commands(words)?;
                    if words.words.next() != Some(Word::Sign(")")) {
                        return Err(self.failed(line, "a parenthesis isn't closed"));
                    }
                    Operand::Pipe(inner)
                }
                Word::Sign(sign) => return Err(self.failed(line, format!("{sign:?} isn't expected"))),
                Word::Field(fields) => Operand::Field(fields),
                Word::Variable(name, fields) => Operand::Variable(name, fields),
                Word::Text(text) => Operand::Literal(text.into()),
                Word::Number(number) => Operand::Literal(number.into()),
                Word::Name(name) => match name.as_str() {
                    "true" => Operand::Literal(true.into()),
                    "false" => Operand::Literal(false.into()),
                    _ => Operand::Function(name),
                },
            });
        }
        commands.push(command);
        if commands.iter().any(Vec::is_empty) {
            return Err(self.failed(line, "a command is missing"));
        }
        Ok(Pipe { commands, line })
    }
}
