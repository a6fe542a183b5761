//! gardend's custom resources, its mirror and what is declared, against a real etcd and kube-apiserver.
//!
//! `make test-kube` runs them; GARDEND_KUBE_TOOLS names the folder with kube-apiserver, kubectl and helm
//! (tests/kube/tools/build.sh). Behind the controller is the fake node: what is tried here is what
//! the cluster sees of it.

mod churn;
mod crds;
mod declared;
mod declared_rights;
mod figures;
mod fleet;
mod frozen;
mod kubectl;
mod leases;
mod mirror;
mod outage;
mod real;
mod redaction;
mod rights;
mod scale;
mod server;
mod tokens;
mod world;
