//! Evaluation. `None` is CEL's error: a value that is not there, or operands that do not fit.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Attributes, CelValue, Function, Node, Operator, Step};

pub(super) fn evaluate<'a>(node: &'a Node, from: &'a dyn Attributes) -> Option<CelValue<'a>> {
    Some(match node {
        Node::Constant(value) => value.clone(),
        Node::Path(steps) => from.get(&path(steps, from)?)?,
        Node::Has(steps) => CelValue::Bool(from.get(&path(steps, from)?).is_some()),
        Node::Not(inner) => CelValue::Bool(!truth(evaluate(inner, from)?)?),
        Node::Negative(inner) => match evaluate(inner, from)? {
            CelValue::Int(number) => CelValue::Int(number.checked_neg()?),
            CelValue::Double(number) => CelValue::Double(-number),
            _ => return None,
        },
        Node::Binary(operator, sides) => binary(*operator, &sides.0, &sides.1, from)?,
        Node::Conditional(parts) => {
            let chosen = if truth(evaluate(&parts.0, from)?)? {
                &parts.1
            } else {
                &parts.2
            };
            evaluate(chosen, from)?
        }
        Node::List(items) => {
            let items = items.iter().map(|item| evaluate(item, from));
            CelValue::List(items.collect::<Option<_>>()?)
        }
        Node::Call(function, arguments) => {
            let arguments = arguments.iter().map(|argument| evaluate(argument, from));
            call(*function, &arguments.collect::<Option<Vec<_>>>()?)?
        }
        Node::Matches(text, regex) => {
            // CEL's `matches` finds the expression anywhere; the parser has put what that takes around it.
            CelValue::Bool(regex.is_match(text_of(&evaluate(text, from)?)?.as_bytes()))
        }
    })
}

fn path<'a>(steps: &'a [Step], from: &'a dyn Attributes) -> Option<Vec<Cow<'a, str>>> {
    let steps = steps.iter().map(|step| match step {
        Step::Key(key) => Some(Cow::Borrowed(&**key)),
        Step::Computed(node) => match evaluate(node, from)? {
            CelValue::Text(text) => Some(text),
            CelValue::Int(number) => Some(number.to_string().into()),
            _ => None,
        },
    });
    steps.collect()
}

fn truth(value: CelValue<'_>) -> Option<bool> {
    match value {
        CelValue::Bool(value) => Some(value),
        _ => None,
    }
}

fn text_of<'v>(value: &'v CelValue<'_>) -> Option<&'v str> {
    match value {
        CelValue::Text(text) => Some(text),
        _ => None,
    }
}

fn binary<'a>(
    operator: Operator,
    left: &'a Node,
    right: &'a Node,
    from: &'a dyn Attributes,
) -> Option<CelValue<'a>> {
    let logic = |decisive: bool| {
        let sides = [left, right].map(|side| evaluate(side, from).and_then(truth));
        // One side decides even where the other is an error.
        match sides {
            [Some(value), _] | [_, Some(value)] if value == decisive => Some(decisive),
            [Some(_), Some(_)] => Some(!decisive),
            _ => None,
        }
    };
    let decided = match operator {
        Operator::And => logic(false)?,
        Operator::Or => logic(true)?,
        Operator::In => is_in(left, right, from)?,
        _ => {
            let (left, right) = (evaluate(left, from)?, evaluate(right, from)?);
            let order = || compare(&left, &right);
            match operator {
                Operator::Equal => equal(&left, &right),
                Operator::NotEqual => !equal(&left, &right),
                Operator::Less => order()?.is_lt(),
                Operator::LessOrEqual => order()?.is_le(),
                Operator::Greater => order()?.is_gt(),
                Operator::GreaterOrEqual => order()?.is_ge(),
                _ => return arithmetic(operator, left, right),
            }
        }
    };
    Some(CelValue::Bool(decided))
}

/// `x in list`, and `'key' in attribute`: whether the attribute has the key.
fn is_in(left: &Node, right: &Node, from: &dyn Attributes) -> Option<bool> {
    let wanted = evaluate(left, from)?;
    if let (Node::Path(steps), CelValue::Text(key)) = (right, &wanted) {
        let mut path = path(steps, from)?;
        path.push(Cow::Borrowed(key));
        return Some(from.get(&path).is_some());
    }
    match evaluate(right, from)? {
        CelValue::List(items) => Some(items.iter().any(|item| equal(item, &wanted))),
        _ => None,
    }
}

fn equal(left: &CelValue<'_>, right: &CelValue<'_>) -> bool {
    match (left, right) {
        (CelValue::Int(_) | CelValue::Double(_), CelValue::Int(_) | CelValue::Double(_)) => {
            compare(left, right) == Some(Ordering::Equal)
        }
        _ => left == right,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of requests are far below 2^53"
)]
fn compare(left: &CelValue<'_>, right: &CelValue<'_>) -> Option<Ordering> {
    match (left, right) {
        (CelValue::Int(a), CelValue::Int(b)) => Some(a.cmp(b)),
        (CelValue::Double(a), CelValue::Double(b)) => a.partial_cmp(b),
        (CelValue::Int(a), CelValue::Double(b)) => (*a as f64).partial_cmp(b),
        (CelValue::Double(a), CelValue::Int(b)) => a.partial_cmp(&(*b as f64)),
        (CelValue::Text(a), CelValue::Text(b)) => Some(a.cmp(b)),
        (CelValue::Bool(a), CelValue::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn arithmetic<'a>(
    operator: Operator,
    left: CelValue<'a>,
    right: CelValue<'a>,
) -> Option<CelValue<'a>> {
    match (left, right) {
        (CelValue::Int(a), CelValue::Int(b)) => Some(CelValue::Int(match operator {
            Operator::Add => a.checked_add(b)?,
            Operator::Subtract => a.checked_sub(b)?,
            Operator::Multiply => a.checked_mul(b)?,
            Operator::Divide => a.checked_div(b)?,
            _ => a.checked_rem(b)?,
        })),
        (CelValue::Double(a), CelValue::Double(b)) => Some(CelValue::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return None,
        })),
        (CelValue::Text(a), CelValue::Text(b)) if operator == Operator::Add => {
            Some(CelValue::Text(a + b))
        }
        _ => None,
    }
}

fn call<'a>(function: Function, arguments: &[CelValue<'a>]) -> Option<CelValue<'a>> {
    let [first, rest @ ..] = arguments else {
        return None;
    };
    let second = || rest.first().and_then(text_of);
    Some(match function {
        Function::Size => CelValue::Int(match first {
            CelValue::Text(text) => i64::try_from(text.chars().count()).ok()?,
            CelValue::List(items) => i64::try_from(items.len()).ok()?,
            _ => return None,
        }),
        Function::Text => CelValue::Text(match first {
            CelValue::Text(text) => text.clone(),
            CelValue::Int(number) => number.to_string().into(),
            CelValue::Double(number) => number.to_string().into(),
            CelValue::Bool(value) => value.to_string().into(),
            CelValue::Null | CelValue::List(_) => return None,
        }),
        Function::Int => match first {
            CelValue::Int(number) => CelValue::Int(*number),
            #[expect(clippy::cast_possible_truncation, reason = "CEL truncates")]
            CelValue::Double(number) => CelValue::Int(*number as i64),
            CelValue::Text(text) => CelValue::Int(text.parse().ok()?),
            _ => return None,
        },
        Function::Double => match first {
            CelValue::Double(number) => CelValue::Double(*number),
            #[expect(clippy::cast_precision_loss, reason = "CEL rounds")]
            CelValue::Int(number) => CelValue::Double(*number as f64),
            CelValue::Text(text) => CelValue::Double(text.parse().ok()?),
            _ => return None,
        },
        Function::StartsWith => CelValue::Bool(text_of(first)?.starts_with(second()?)),
        Function::EndsWith => CelValue::Bool(text_of(first)?.ends_with(second()?)),
        Function::Contains => CelValue::Bool(text_of(first)?.contains(second()?)),
        Function::LowerAscii => CelValue::Text(text_of(first)?.to_ascii_lowercase().into()),
        Function::UpperAscii => CelValue::Text(text_of(first)?.to_ascii_uppercase().into()),
    })
}
