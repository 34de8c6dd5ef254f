//! Stand-ins for the images that Istio's samples use: bookinfo, httpbin, echo servers.
