//! Pods and everything inside a pod's `spec`.

use std::collections::BTreeMap;

use super::LocalObjectReference;
use crate::meta::ObjectMeta;
use crate::schema::object;
use crate::value::{IntOrString, Value};

object! {
    /// `v1.Pod`.
    pub struct Pod {
        spec: PodSpec,
        status: PodStatus,
    }
}

object! {
    /// `v1.PodTemplateSpec`.
    pub struct PodTemplateSpec {
        metadata: ObjectMeta,
        spec: PodSpec,
    }
}

object! {
    /// `v1.PodSpec`.
    pub struct PodSpec {
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Option<Value>,
        volumes: Vec<Volume>,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        dns_policy: String,
        dns_config: Option<Value>,
        node_selector: BTreeMap<String, String>,
        service_account_name: String,
        service_account: String,
        automount_service_account_token: Option<bool>,
        node_name: String,
        host_network: bool,
        host_pid: bool = "hostPID",
        host_ipc: bool = "hostIPC",
        share_process_namespace: Option<bool>,
        security_context: Option<PodSecurityContext>,
        image_pull_secrets: Vec<LocalObjectReference>,
        hostname: String,
        subdomain: String,
        hostname_override: String,
        affinity: Option<Value>,
        scheduler_name: String,
        tolerations: Option<Value>,
        host_aliases: Vec<HostAlias>,
        priority_class_name: String,
        priority: Option<i32>,
        readiness_gates: Option<Value>,
        runtime_class_name: String,
        enable_service_links: Option<bool>,
        preemption_policy: String,
        overhead: Option<Value>,
        topology_spread_constraints: Option<Value>,
        set_hostname_as_fqdn: Option<bool> = "setHostnameAsFQDN",
        os: Option<Value>,
        host_users: Option<bool>,
        scheduling_gates: Option<Value>,
        resource_claims: Option<Value>,
        resources: Option<ResourceRequirements>,
    }
}

object! {
    /// `v1.PodStatus`.
    pub struct PodStatus {
        phase: String,
        pod_ip: String = "podIP",
        pod_ips: Vec<PodIp> = "podIPs",
        host_ip: String = "hostIP",
        host_ips: Option<Value> = "hostIPs",
        conditions: Vec<PodCondition>,
        container_statuses: Option<Value>,
        init_container_statuses: Option<Value>,
        ephemeral_container_statuses: Option<Value>,
        start_time: String,
        qos_class: String,
        message: String,
        reason: String,
        nominated_node_name: String,
        observed_generation: i64,
        resize: String,
        resource_claim_statuses: Option<Value>,
    }
}

object! {
    /// `v1.PodIP`.
    pub struct PodIp {
        ip: String,
    }
}

object! {
    /// `v1.PodCondition`.
    pub struct PodCondition {
        r#type: String,
        status: String,
        reason: String,
        message: String,
        last_probe_time: String,
        last_transition_time: String,
        observed_generation: i64,
    }
}

object! {
    /// `v1.Container`.
    pub struct Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        ports: Vec<ContainerPort>,
        env_from: Vec<EnvFromSource>,
        env: Vec<EnvVar>,
        resources: Option<ResourceRequirements>,
        resize_policy: Option<Value>,
        restart_policy: String,
        restart_policy_rules: Option<Value>,
        volume_mounts: Vec<VolumeMount>,
        volume_devices: Option<Value>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Option<Lifecycle>,
        termination_message_path: String,
        termination_message_policy: String,
        image_pull_policy: String,
        security_context: Option<SecurityContext>,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
    }
}

object! {
    /// `v1.ContainerPort`.
    pub struct ContainerPort {
        name: String,
        host_port: Option<u16>,
        container_port: u16,
        protocol: String,
        host_ip: String = "hostIP",
    }
}

object! {
    /// `v1.EnvVar`.
    pub struct EnvVar {
        name: String,
        value: String,
        value_from: Option<EnvVarSource>,
    }
}

object! {
    /// `v1.EnvVarSource`.
    pub struct EnvVarSource {
        field_ref: Option<ObjectFieldSelector>,
        resource_field_ref: Option<Value>,
        config_map_key_ref: Option<KeySelector>,
        secret_key_ref: Option<KeySelector>,
        file_key_ref: Option<Value>,
    }
}

object! {
    /// `v1.ObjectFieldSelector`.
    pub struct ObjectFieldSelector {
        api_version: String,
        field_path: String,
    }
}

object! {
    /// `v1.ConfigMapKeySelector` and `v1.SecretKeySelector`.
    pub struct KeySelector {
        name: String,
        key: String,
        optional: Option<bool>,
    }
}

object! {
    /// `v1.EnvFromSource`.
    pub struct EnvFromSource {
        prefix: String,
        config_map_ref: Option<EnvSource>,
        secret_ref: Option<EnvSource>,
    }
}

object! {
    /// `v1.ConfigMapEnvSource` and `v1.SecretEnvSource`.
    pub struct EnvSource {
        name: String,
        optional: Option<bool>,
    }
}

object! {
    /// `v1.ResourceRequirements`; quantities as written.
    pub struct ResourceRequirements {
        limits: BTreeMap<String, Value>,
        requests: BTreeMap<String, Value>,
        claims: Option<Value>,
    }
}

object! {
    /// `v1.VolumeMount`.
    pub struct VolumeMount {
        name: String,
        mount_path: String,
        sub_path: String,
        sub_path_expr: String,
        read_only: bool,
        recursive_read_only: String,
        mount_propagation: String,
    }
}

object! {
    /// `v1.Probe`.
    pub struct Probe {
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        grpc: Option<GrpcAction>,
        exec: Option<ExecAction>,
        initial_delay_seconds: Option<i32>,
        timeout_seconds: Option<i32>,
        period_seconds: Option<i32>,
        success_threshold: Option<i32>,
        failure_threshold: Option<i32>,
        termination_grace_period_seconds: Option<i64>,
    }
}

object! {
    /// `v1.HTTPGetAction`.
    pub struct HttpGetAction {
        path: String,
        port: IntOrString,
        host: String,
        scheme: String,
        http_headers: Vec<HttpHeader>,
    }
}

object! {
    /// `v1.HTTPHeader`.
    pub struct HttpHeader {
        name: String,
        value: String,
    }
}

object! {
    /// `v1.TCPSocketAction`.
    pub struct TcpSocketAction {
        port: IntOrString,
        host: String,
    }
}

object! {
    /// `v1.GRPCAction`.
    pub struct GrpcAction {
        port: u16,
        service: String,
    }
}

object! {
    /// `v1.ExecAction`.
    pub struct ExecAction {
        command: Vec<String>,
    }
}

object! {
    /// `v1.Lifecycle`.
    pub struct Lifecycle {
        post_start: Option<LifecycleHandler>,
        pre_stop: Option<LifecycleHandler>,
        stop_signal: String,
    }
}

object! {
    /// `v1.LifecycleHandler`.
    pub struct LifecycleHandler {
        exec: Option<ExecAction>,
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        sleep: Option<Value>,
    }
}

object! {
    /// `v1.PodSecurityContext`.
    pub struct PodSecurityContext {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        supplemental_groups: Vec<i64>,
        supplemental_groups_policy: String,
        fs_group: Option<i64>,
        fs_group_change_policy: String,
        sysctls: Option<Value>,
        se_linux_options: Option<Value>,
        se_linux_change_policy: String,
        seccomp_profile: Option<Value>,
        app_armor_profile: Option<Value>,
        windows_options: Option<Value>,
    }
}

object! {
    /// `v1.SecurityContext`.
    pub struct SecurityContext {
        capabilities: Option<Value>,
        privileged: Option<bool>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        read_only_root_filesystem: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        proc_mount: String,
        se_linux_options: Option<Value>,
        seccomp_profile: Option<Value>,
        app_armor_profile: Option<Value>,
        windows_options: Option<Value>,
    }
}

object! {
    /// `v1.HostAlias`.
    pub struct HostAlias {
        ip: String,
        hostnames: Vec<String>,
    }
}

object! {
    /// `v1.Volume`. Sources that need a storage system are kept as trees.
    pub struct Volume {
        name: String,
        empty_dir: Option<Value>,
        host_path: Option<HostPathVolumeSource>,
        config_map: Option<ConfigMapVolumeSource>,
        secret: Option<SecretVolumeSource>,
        projected: Option<Value>,
        downward_api: Option<Value> = "downwardAPI",
        persistent_volume_claim: Option<Value>,
        csi: Option<Value>,
        ephemeral: Option<Value>,
        image: Option<Value>,
        nfs: Option<Value>,
        aws_elastic_block_store: Option<Value>,
        azure_disk: Option<Value>,
        azure_file: Option<Value>,
        cephfs: Option<Value>,
        cinder: Option<Value>,
        fc: Option<Value>,
        flex_volume: Option<Value>,
        flocker: Option<Value>,
        gce_persistent_disk: Option<Value>,
        git_repo: Option<Value>,
        glusterfs: Option<Value>,
        iscsi: Option<Value>,
        photon_persistent_disk: Option<Value>,
        portworx_volume: Option<Value>,
        quobyte: Option<Value>,
        rbd: Option<Value>,
        scale_io: Option<Value> = "scaleIO",
        storageos: Option<Value>,
        vsphere_volume: Option<Value>,
    }
}

object! {
    /// `v1.HostPathVolumeSource`.
    pub struct HostPathVolumeSource {
        path: String,
        r#type: String,
    }
}

object! {
    /// `v1.ConfigMapVolumeSource`.
    pub struct ConfigMapVolumeSource {
        name: String,
        items: Vec<KeyToPath>,
        /// File mode bits; octal `0644` in YAML is 420.
        default_mode: Option<i32>,
        optional: Option<bool>,
    }
}

object! {
    /// `v1.SecretVolumeSource`.
    pub struct SecretVolumeSource {
        secret_name: String,
        items: Vec<KeyToPath>,
        /// File mode bits; octal `0644` in YAML is 420.
        default_mode: Option<i32>,
        optional: Option<bool>,
    }
}

object! {
    /// `v1.KeyToPath`.
    pub struct KeyToPath {
        key: String,
        path: String,
        mode: Option<i32>,
    }
}
