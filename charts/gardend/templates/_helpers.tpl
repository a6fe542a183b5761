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
