//! The data plane: listeners, TLS, HTTP and TCP proxying, upstream pools, admin.
