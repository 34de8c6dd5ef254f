//! Structured values: Envoy's metadata and `google.protobuf.Struct`, in a form that is cheap to walk and has one order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A `google.protobuf.Value`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// JSON `null`.
    #[default]
    Null,
    /// A number.
    Number(f64),
    /// A text.
    String(Arc<str>),
    /// A boolean.
    Bool(bool),
    /// A list.
    List(Vec<Value>),
    /// A map, in key order.
    Struct(BTreeMap<Arc<str>, Value>),
}

impl Value {
    /// The value at a path of keys below this one.
    pub fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        path.iter().try_fold(self, |value, key| match value {
            Self::Struct(fields) => fields.get(key.as_ref()),
            _ => None,
        })
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// As JSON, for people.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Number(number) => number.fmt(f),
            Self::String(text) => write!(f, "{text:?}"),
            Self::Bool(value) => value.fmt(f),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Struct(fields) => {
                let field = |(key, value): (&Arc<str>, &Self)| format!("{key:?}: {value}");
                let fields: Vec<String> = fields.iter().map(field).collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
        }
    }
}

/// Metadata by namespace (a filter's name, `istio`, `envoy.lb`, …): `envoy.config.core.v3.Metadata`, and dynamic metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The values by namespace; each is a [`Value::Struct`].
    pub namespaces: BTreeMap<Arc<str>, Value>,
}

impl Metadata {
    /// The value at a path below a namespace.
    pub fn get<S: AsRef<str>>(&self, namespace: &str, path: &[S]) -> Option<&Value> {
        self.namespaces.get(namespace)?.at(path)
    }

    /// Sets one namespace, replacing what was there.
    pub fn set(&mut self, namespace: impl Into<Arc<str>>, value: Value) {
        self.namespaces.insert(namespace.into(), value);
    }

    /// Sets one field of a namespace; the others stay.
    pub fn put(&mut self, namespace: &str, key: &Arc<str>, value: Value) {
        let fields = match self.namespaces.get_mut(namespace) {
            Some(fields) => fields,
            None => self.namespaces.entry(namespace.into()).or_default(),
        };
        match fields {
            Value::Struct(fields) => {
                fields.insert(Arc::clone(key), value);
            }
            other => *other = Value::Struct(BTreeMap::from([(Arc::clone(key), value)])),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}
