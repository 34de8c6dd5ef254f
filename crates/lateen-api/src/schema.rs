//! How a type of this crate is declared: fields, decoder and field table from one list.
//!
//! **To add a field**, add one line to the `object!` of its type: `new_field: Option<Duration>,`. Its JSON name is the
//! camelCase of the Rust name; where that is wrong, say so: `pod_ip: String = "podIP",`; a second spelling goes
//! behind it: `= "jwksUri" | "jwks_uri"`. Nothing else is needed: the
//! field is decoded, offered by "did you mean", and known to the unknown-field check.
//!
//! **To choose its type**: what Istio's protobuf calls a wrapper, a message or a oneof member, and what Kubernetes
//! calls a pointer, is `Option<T>`; plain scalars are plain; lists are `Vec`, maps `BTreeMap`. A value with a type of
//! its own implements [`Decode`](decode::Decode).
//!
//! **To add a rule**, write it behind the field: `name: String [REQUIRED, max_len(253)],`; a rule about several fields goes
//! behind the type's name: `pub struct Telemetry [AtMostOne(&["selector", "targetRefs"])] {`. They are checked while
//! decoding; [`check`] has the list. What needs to know more than one object's own text is in `validation`.
//!
//! **To add an enum value**, add `Variant = "JSON_NAME",` to the `enumeration!`. The first variant is the default.

pub mod check;
pub mod decode;
mod scalars;
pub(crate) mod suggest;

pub use scalars::parse_duration;
pub use suggest::nearest;

/// Declares a struct with its decoder and field table; see the module's documentation.
macro_rules! object {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $([ $($rule:expr),* $(,)? ])? {
            $(
                $(#[$fmeta:meta])*
                $field:ident : $ty:ty $(= $json:literal $(| $alias:literal)*)?
                    $([ $($check:expr),* $(,)? ])?
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name {
            $(
                #[doc = concat!("`", stringify!($field), "`.")]
                $(#[$fmeta])*
                pub $field: $ty,
            )*
        }

        impl $crate::schema::decode::Object for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [$crate::schema::decode::Field<Self>] = &[
                $(
                    $crate::schema::field!(
                        $crate::schema::json_name!($field $(, $json)?),
                        $field,
                        [$($($check),*)?]
                    ),
                    $($( $crate::schema::field!($alias, $field, []), )*)?
                )*
            ];
            const CHECKS: &'static [$crate::schema::check::ObjectCheck] = {
                #[allow(unused_imports, reason = "most types have no rules")]
                use $crate::schema::check::ObjectCheck::*;
                &[$($($rule),*)?]
            };
        }

        impl $crate::schema::decode::Decode for $name {
            fn decode(
                node: &$crate::tree::Node,
                cx: &mut $crate::schema::decode::Cx<'_>,
            ) -> Option<Self> {
                $crate::schema::decode::object(node, cx)
            }
        }
    };
}

/// One row of a field table.
macro_rules! field {
    ($name:expr, $field:ident, [$($check:expr),*]) => {
        $crate::schema::decode::Field {
            name: $name,
            checks: {
                #[allow(unused_imports, reason = "most fields have no rules")]
                use $crate::schema::check::*;
                &[$($check),*]
            },
            decode: |node, cx, object: &mut Self| {
                if let Some(value) = $crate::schema::decode::Decode::decode(node, cx) {
                    object.$field = value;
                }
            },
        }
    };
}

/// Declares an enum of JSON names; see the module's documentation.
macro_rules! enumeration {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $first:ident = $first_json:literal
            $( , $variant:ident = $json:literal )* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            #[doc = concat!("`", $first_json, "`, the default.")]
            #[default]
            $first,
            $(
                #[doc = concat!("`", $json, "`.")]
                $variant,
            )*
        }

        impl $name {
            /// Every value, in the API's order.
            pub const ALL: &'static [Self] = &[Self::$first $(, Self::$variant)*];

            /// The name in JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_json,
                    $( Self::$variant => $json, )*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::schema::decode::Decode for $name {
            fn decode(
                node: &$crate::tree::Node,
                cx: &mut $crate::schema::decode::Cx<'_>,
            ) -> Option<Self> {
                const NAMES: &[&str] = &[$first_json $(, $json)*];
                $crate::schema::decode::name(node, cx, NAMES).map(|index| Self::ALL[index])
            }
        }
    };
}

/// The JSON name of a field: as given, else the camelCase of the Rust name, computed by the compiler.
macro_rules! json_name {
    ($field:ident) => {{
        const RUST: &str = stringify!($field);
        const LEN: usize = $crate::schema::camel_len(RUST);
        const BYTES: [u8; LEN] = $crate::schema::camel::<LEN>(RUST);
        match std::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => RUST,
        }
    }};
    ($field:ident, $json:literal) => {
        $json
    };
}

pub(crate) use {enumeration, field, json_name, object};

/// Where the name starts: after `r#` of a raw identifier.
const fn camel_start(rust: &[u8]) -> usize {
    if rust.len() > 2 && rust[0] == b'r' && rust[1] == b'#' {
        2
    } else {
        0
    }
}

/// Length of [`camel`]'s result.
pub(crate) const fn camel_len(rust: &str) -> usize {
    let rust = rust.as_bytes();
    let mut at = camel_start(rust);
    let mut len = 0;
    while at < rust.len() {
        if rust[at] != b'_' {
            len += 1;
        }
        at += 1;
    }
    len
}

/// `cluster_ip` to `clusterIp`.
pub(crate) const fn camel<const LEN: usize>(rust: &str) -> [u8; LEN] {
    let rust = rust.as_bytes();
    let mut out = [0; LEN];
    let mut at = camel_start(rust);
    let mut len = 0;
    let mut upper = false;
    while at < rust.len() {
        if rust[at] == b'_' {
            upper = true;
        } else {
            out[len] = if upper {
                rust[at].to_ascii_uppercase()
            } else {
                rust[at]
            };
            upper = false;
            len += 1;
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_names_are_camel_case_unless_given() {
        assert_eq!(json_name!(export_to), "exportTo");
        assert_eq!(json_name!(r#match), "match");
        assert_eq!(json_name!(consecutive_5xx_errors), "consecutive5xxErrors");
        assert_eq!(json_name!(pod_ip, "podIP"), "podIP");
    }
}
