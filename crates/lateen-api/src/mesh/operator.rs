//! `install.istio.io` `IstioOperator`: the installation settings this mesh reads, and the rest kept as a tree.

use super::MeshConfig;
use crate::schema::object;
use crate::value::Value;

object! {
    /// The `spec` of an `IstioOperator`. Only `meshConfig`, `profile` and `revision` change how a mesh behaves here;
    /// `components` and `values` are kept as written.
    pub struct IstioOperator {
        profile: String,
        revision: String,
        tag: Option<Value>,
        hub: String,
        namespace: String,
        install_package_path: String,
        mesh_config: Option<MeshConfig>,
        components: Option<Value>,
        values: Option<Value>,
        unvalidated_values: Option<Value>,
        default_revision: Option<bool>,
        compatibility_version: Option<Value>,
        addon_components: Option<Value>,
    }
}
