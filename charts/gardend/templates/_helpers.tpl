{{- define "gardend.selector" -}}
app.kubernetes.io/name: gardend
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gardend.labels" -}}
{{ include "gardend.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gardend.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "gardend.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Whether gardend shows what it has to the API server. */}}
{{- define "gardend.mirrors" -}}
{{- if and .Values.mirror.enabled (ne .Values.mirror.detail "off") }}true{{ end }}
{{- end }}

{{/* Whether gardend speaks to the API server. */}}
{{- define "gardend.asksCluster" -}}
{{- if or (include "gardend.mirrors" .) .Values.garden.tls.tokenReview.enabled }}true{{ end }}
{{- end }}

{{/* Whether containers are declared. */}}
{{- define "gardend.declares" -}}
{{- if and .Values.declared.enabled (include "gardend.mirrors" .) }}true{{ end }}
{{- end }}

{{/* Where, as JSON. */}}
{{- define "gardend.declaredNamespaces" -}}
{{ .Values.declared.namespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}

{{/* What the chart's own values say of gardend's options. */}}
{{- define "gardend.config" -}}
mount-namespace: host
listen: {{ toJson .Values.garden.listen }}
{{- with .Values.garden.socketGroup }}
listen-group: {{ . | toString | quote }}
{{- end }}
containerd: {{ if eq .Values.containerd.mode "managed" }}managed{{ else }}{{ .Values.containerd.socket }}{{ end }}
runtime: {{ .Values.runtime }}
{{- /* A number of bytes is not to become one with an exponent. */}}
containers-memory-max: {{ if kindIs "string" .Values.containers.memoryMax }}{{ .Values.containers.memoryMax }}{{ else }}{{ int64 .Values.containers.memoryMax }}{{ end }}
containers-cpu-max: {{ .Values.containers.cpuMax }}
metrics-listen: {{ printf "%s:%d" (ternary (printf "[%s]" .Values.metrics.host) .Values.metrics.host (contains ":" .Values.metrics.host)) (int .Values.metrics.port) | quote }}
{{- with .Values.garden.tls.secretName }}
tls-cert: /etc/gardend/tls/tls.crt
tls-key: /etc/gardend/tls/tls.key
{{- end }}
{{- if .Values.garden.tls.clientCertificates }}
tls-client-ca: /etc/gardend/tls/ca.crt
{{- end }}
{{- if .Values.garden.tls.tokenSecretName }}
token-file: /etc/gardend/tokens/tokens
{{- end }}
{{- if .Values.garden.tls.tokenReview.enabled }}
token-review: true
token-audience: {{ .Values.garden.tls.tokenReview.audience | quote }}
{{- end }}
{{- if include "gardend.mirrors" . }}
kube: mirror
kube-namespace: {{ .Release.Namespace }}
kube-detail: {{ .Values.mirror.detail }}
kube-arguments: {{ .Values.mirror.arguments }}
kube-writes-per-second: {{ .Values.mirror.writesPerSecond }}
kube-write-burst: {{ .Values.mirror.writeBurst }}
{{- with .Values.mirror.properties }}
kube-property: {{ toJson . }}
{{- end }}
{{- if include "gardend.declares" . }}
kube-declared: true
kube-declared-namespace: {{ include "gardend.declaredNamespaces" . }}
{{- end }}
{{- else }}
kube: "off"
{{- end }}
{{- end }}

{{/* Kubelet asks the node's address; what listens on another one has to be asked there. */}}
{{- define "gardend.probeHost" -}}
{{- if not (has .Values.metrics.host (list "0.0.0.0" "::")) }}, host: {{ .Values.metrics.host | quote }}{{ end }}
{{- end }}

{{/* What every object of a hook's has, but the job itself, which stays for who reads its log where it failed. Takes root, name, event. */}}
{{- define "gardend.hookMetadata" -}}
name: {{ .name }}
labels: {{- include "gardend.labels" .root | nindent 2 }}
annotations:
  helm.sh/hook: {{ .event }}
  helm.sh/hook-weight: "-1"
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* `gardend cleanup` as a job. Takes root, name, event, args. */}}
{{- define "gardend.cleanupJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "gardend.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .event }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 0
  activeDeadlineSeconds: {{ add .root.Values.cleanup.timeoutSeconds 60 }}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: gardend-cleanup
        app.kubernetes.io/instance: {{ .root.Release.Name }}
    spec:
      serviceAccountName: {{ .name }}
      automountServiceAccountToken: true
      restartPolicy: Never
      tolerations: {{- toYaml .root.Values.tolerations | nindent 8 }}
      {{- include "gardend.pullSecrets" .root | nindent 6 }}
      securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: cleanup
          image: {{ include "gardend.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args:
            - cleanup
            - --namespace={{ .root.Release.Namespace }}
            - --selector=app.kubernetes.io/name=gardend,app.kubernetes.io/instance={{ .root.Release.Name }}
            - --timeout={{ .root.Values.cleanup.timeoutSeconds }}s
            {{- range .args }}
            - {{ . }}
            {{- end }}
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 128Mi}}
{{- end }}
