//! The stable codes of what this crate reports. A code never changes its meaning and is never reused.
//!
//! `LAT00xx` text and YAML, `LAT01xx` fields and their types, `LAT02xx` kinds and versions, `LAT03xx` values against
//! the API's rules. `IST0106` is Istio's own code for what its schema validation refuses.

/// The file or document is not YAML.
pub const SYNTAX: &str = "LAT0001";
/// A key is written twice in one map.
pub const DUPLICATE_KEY: &str = "LAT0002";
/// Nested deeper, or expanded by aliases to more, than this mesh reads.
pub const LIMIT: &str = "LAT0003";
/// An alias without anchor, or a merge key that merges nothing.
pub const ALIAS: &str = "LAT0004";
/// A key that is not a scalar.
pub const BAD_KEY: &str = "LAT0005";
/// The document is not an object with `apiVersion`, `kind` and `metadata`.
pub const NOT_A_RESOURCE: &str = "LAT0006";
/// Text in which something else was left over, such as a template's placeholder.
pub const TEMPLATE: &str = "LAT0007";

/// The value is of another type than the field.
pub const WRONG_TYPE: &str = "LAT0101";
/// The object has no such field.
pub const UNKNOWN_FIELD: &str = "LAT0102";
/// Not one of the field's values.
pub const UNKNOWN_VALUE: &str = "LAT0103";
/// The number is too small or too large for its field.
pub const OUT_OF_RANGE: &str = "LAT0104";
/// Text that YAML reads as a number or a truth value without quotes.
pub const UNQUOTED: &str = "LAT0105";
/// Not a duration.
pub const BAD_DURATION: &str = "LAT0106";
/// Several of which only one may be set.
pub const ONE_OF: &str = "LAT0107";

/// A kind this mesh does not read.
pub const UNKNOWN_KIND: &str = "LAT0201";
/// A kind that looks like a misspelt one.
pub const MISSPELT_KIND: &str = "LAT0202";
/// A version the kind never had.
pub const UNKNOWN_VERSION: &str = "LAT0203";
/// A version Kubernetes or Istio has removed.
pub const REMOVED_VERSION: &str = "LAT0204";

/// A required field is missing.
pub const REQUIRED: &str = "LAT0301";
/// Not the form the API asks for.
pub const BAD_FORM: &str = "LAT0302";
/// The same thing twice where it has to be unique.
pub const DUPLICATE: &str = "LAT0303";
/// Fields that do not go together.
pub const CONFLICT: &str = "LAT0304";

/// The effect of every error: nothing of the object is used.
pub const EFFECT_REFUSED: &str = "the object is refused; its last good version stays in force";

/// Istio's `SchemaValidationError`: what its validation webhook refuses.
pub const SCHEMA: &str = "IST0106";
/// Istio's `SchemaWarning`: what its validation webhook warns of.
pub const SCHEMA_WARNING: &str = "IST0133";
/// Istio's `VirtualServiceUnreachableRule`.
pub const UNREACHABLE_RULE: &str = "IST0130";
/// Istio's `VirtualServiceIneffectiveMatch`.
pub const INEFFECTIVE_MATCH: &str = "IST0131";
