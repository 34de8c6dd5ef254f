//! Namespaces, service accounts, secrets and config maps.

use std::collections::BTreeMap;

use crate::schema::object;
use crate::value::{Bytes, Value};

object! {
    /// `v1.Namespace`.
    pub struct Namespace {
        spec: Option<Value>,
        status: Option<Value>,
    }
}

object! {
    /// `v1.ServiceAccount`.
    pub struct ServiceAccount {
        secrets: Vec<ObjectReference>,
        image_pull_secrets: Vec<LocalObjectReference>,
        automount_service_account_token: Option<bool>,
    }
}

object! {
    /// `v1.Secret`. `stringData` is left as written; see [`Secret::get`].
    pub struct Secret {
        r#type: String,
        data: BTreeMap<String, Bytes>,
        string_data: BTreeMap<String, String>,
        immutable: Option<bool>,
    }
}

impl Secret {
    /// The bytes of `key`; `stringData` wins over `data`, as in the API server.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.string_data
            .get(key)
            .map(String::as_bytes)
            .or_else(|| self.data.get(key).map(AsRef::as_ref))
    }
}

object! {
    /// `v1.ConfigMap`.
    pub struct ConfigMap {
        data: BTreeMap<String, String>,
        binary_data: BTreeMap<String, Bytes>,
        immutable: Option<bool>,
    }
}

object! {
    /// `v1.ObjectReference`.
    pub struct ObjectReference {
        api_version: String,
        kind: String,
        namespace: String,
        name: String,
        uid: String,
        resource_version: String,
        field_path: String,
    }
}

object! {
    /// `v1.LocalObjectReference`.
    pub struct LocalObjectReference {
        name: String,
    }
}
