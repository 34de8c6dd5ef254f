//! Parsing, by precedence climbing.

use super::{CelError, CelValue, Function, MAX_DEPTH, Node, Operator, ROOTS, Step};
use crate::matcher::FullRegex;

/// Operators by precedence, the loosest first.
const LEVELS: [&[(&str, Operator)]; 5] = [
    &[("||", Operator::Or)],
    &[("&&", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
        ("in", Operator::In),
    ],
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[
        ("*", Operator::Multiply),
        ("/", Operator::Divide),
        ("%", Operator::Remainder),
    ],
];

pub(super) fn parse(source: &str) -> Result<Node, CelError> {
    let mut parser = Parser {
        source,
        at: 0,
        depth: 0,
    };
    let root = parser.expression()?;
    parser.skip_space();
    if parser.at < source.len() {
        return Err(parser.error("something follows the expression"));
    }
    Ok(root)
}

struct Parser<'s> {
    source: &'s str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl Into<String>) -> CelError {
        CelError {
            at: self.at,
            message: message.into(),
        }
    }

    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes a token; a word has to end where it ends.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let Some(after) = self.rest().strip_prefix(token) else {
            return false;
        };
        let is_word = token.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_word && after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return false;
        }
        self.at += token.len();
        true
    }

    fn expect(&mut self, token: &str) -> Result<(), CelError> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.error(format!("`{token}` is expected")))
    }

    fn expression(&mut self) -> Result<Node, CelError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let condition = self.level(0)?;
        let node = if self.take("?") {
            let yes = self.expression()?;
            self.expect(":")?;
            let no = self.expression()?;
            Node::Conditional(Box::new((condition, yes, no)))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    fn level(&mut self, level: usize) -> Result<Node, CelError> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.level(level + 1)?;
        let mut chained = 0;
        while let Some((_, operator)) = operators.iter().find(|(token, _)| self.take(token)) {
            // A chain leans to the left, and is as deep as it is long.
            chained += 1;
            if chained > MAX_DEPTH {
                return Err(self.error("too many operators in a row"));
            }
            let right = self.level(level + 1)?;
            left = Node::Binary(*operator, Box::new((left, right)));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, CelError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let node = if self.take("!") {
            Node::Not(Box::new(self.unary()?))
        } else if self.take("-") {
            Node::Negative(Box::new(self.unary()?))
        } else {
            let primary = self.primary()?;
            self.members(primary)?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, CelError> {
        self.skip_space();
        let begin = self.at;
        match self.rest().bytes().next() {
            None => Err(self.error("the expression ends too early")),
            Some(b'(') => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Some(b'[') => {
                self.at += 1;
                self.arguments("]").map(Node::List)
            }
            Some(b'\'' | b'"') => self
                .text()
                .map(|text| constant(CelValue::Text(text.into()))),
            Some(byte) if byte.is_ascii_digit() => self.number(),
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let name = self.name();
                self.named(&name, begin)
            }
            Some(_) => Err(self.error("a value is expected")),
        }
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += end;
        name
    }

    fn named(&mut self, name: &str, begin: usize) -> Result<Node, CelError> {
        let unknown = |message: String| CelError { at: begin, message };
        match name {
            "true" => return Ok(constant(CelValue::Bool(true))),
            "false" => return Ok(constant(CelValue::Bool(false))),
            "null" => return Ok(constant(CelValue::Null)),
            _ => {}
        }
        if self.take("(") {
            let arguments = self.arguments(")")?;
            return match (name, arguments.as_slice()) {
                ("has", [Node::Path(steps)]) => Ok(Node::Has(steps.clone())),
                ("size", [_]) => Ok(Node::Call(Function::Size, arguments)),
                ("string", [_]) => Ok(Node::Call(Function::Text, arguments)),
                ("int" | "uint", [_]) => Ok(Node::Call(Function::Int, arguments)),
                ("double", [_]) => Ok(Node::Call(Function::Double, arguments)),
                _ => Err(unknown(format!(
                    "the function `{name}` is not supported like this"
                ))),
            };
        }
        if !ROOTS.contains(&name) {
            let known = ROOTS.join(", ");
            return Err(unknown(format!(
                "`{name}` is no attribute (known are {known})"
            )));
        }
        Ok(Node::Path(vec![Step::Key(name.into())]))
    }

    /// `.name`, `.function(…)` and `[…]` after a value.
    fn members(&mut self, mut node: Node) -> Result<Node, CelError> {
        loop {
            if self.take(".") {
                self.skip_space();
                let begin = self.at;
                let name = self.name();
                node = if self.take("(") {
                    let arguments = self.arguments(")")?;
                    method(node, &name, arguments)
                        .map_err(|message| CelError { at: begin, message })?
                } else {
                    self.step(node, Step::Key(name.into()))?
                };
            } else if self.take("[") {
                let key = self.expression()?;
                self.expect("]")?;
                let step = match key {
                    Node::Constant(CelValue::Text(text)) => Step::Key(text.into()),
                    other => Step::Computed(Box::new(other)),
                };
                node = self.step(node, step)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn step(&self, node: Node, step: Step) -> Result<Node, CelError> {
        match node {
            Node::Path(mut steps) if steps.len() < MAX_DEPTH => {
                steps.push(step);
                Ok(Node::Path(steps))
            }
            _ => Err(self.error("only attributes have members")),
        }
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Node>, CelError> {
        let mut out = Vec::new();
        if self.take(end) {
            return Ok(out);
        }
        loop {
            out.push(self.expression()?);
            if self.take(end) {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }

    fn number(&mut self) -> Result<Node, CelError> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
            .unwrap_or(rest.len());
        let text = &rest[..end];
        let whole = text.strip_suffix('u').unwrap_or(text);
        let int = match whole.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => whole.parse().ok(),
        };
        let number = int
            .map(CelValue::Int)
            .or_else(|| text.parse().ok().map(CelValue::Double));
        let number = number.ok_or_else(|| self.error(format!("`{text}` is no number")))?;
        self.at += end;
        Ok(constant(number))
    }

    fn text(&mut self) -> Result<String, CelError> {
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map_or('\'', |(_, quote)| quote);
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += at + c.len_utf8();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"' | '`' | '?'))) => out.push(c),
                    _ => return Err(self.error("the escape in this text is not supported")),
                },
                _ => out.push(c),
            }
        }
        Err(self.error("the text does not end"))
    }
}

const fn constant(value: CelValue<'static>) -> Node {
    Node::Constant(value)
}

fn method(receiver: Node, name: &str, arguments: Vec<Node>) -> Result<Node, String> {
    if let ("matches", [Node::Constant(CelValue::Text(expression))]) = (name, arguments.as_slice())
    {
        let anywhere = format!("(?s:.*)(?:{expression})(?s:.*)");
        let regex = FullRegex::new(&anywhere).map_err(|error| error.to_string())?;
        return Ok(Node::Matches(Box::new(receiver), regex));
    }
    let (function, takes) = match name {
        "startsWith" => (Function::StartsWith, 1),
        "endsWith" => (Function::EndsWith, 1),
        "contains" => (Function::Contains, 1),
        "lowerAscii" => (Function::LowerAscii, 0),
        "upperAscii" => (Function::UpperAscii, 0),
        "size" => (Function::Size, 0),
        _ => return Err(format!("the function `{name}` is not supported like this")),
    };
    if arguments.len() != takes {
        return Err(format!("`{name}` takes {takes} arguments"));
    }
    Ok(Node::Call(
        function,
        std::iter::once(receiver).chain(arguments).collect(),
    ))
}
