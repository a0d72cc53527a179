{{/*
The end-to-end tests render rbac.yaml and serviceaccount.yaml without helm, and with them "labels" and "selectorLabels"
from here (e2e/src/chart/template.rs): in these two only values such as .Release.Name, include, quote, replace and
nindent, no if, range or with.
*/}}

{{/* Labels of every object. A "+" in the version is legal there and not in a label. */}}
{{- define "capi-ipam-in-cluster.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "capi-ipam-in-cluster.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/part-of: cluster-api
app.kubernetes.io/managed-by: {{ .Release.Service }}
cluster.x-k8s.io/provider: ipam-in-cluster
{{- end }}

{{/* What tells this release's pods from others. Never to be changed: a Deployment's selector cannot be. */}}
{{- define "capi-ipam-in-cluster.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
Name of what belongs to no namespace. With the namespace, because two releases may have one name in two namespaces;
with a dot, because a namespace has none, so that no two pairs share a name.
*/}}
{{- define "capi-ipam-in-cluster.clusterWideName" -}}
{{ .Release.Namespace }}.{{ .Release.Name }}
{{- end }}

{{/* Where a Secret with the webhooks' certificate is mounted. */}}
{{- define "capi-ipam-in-cluster.certificateFolder" -}}
/var/run/webhook-certificate
{{- end }}

{{- define "capi-ipam-in-cluster.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if not (and .digest (not .tag)) }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end }}

{{/*
A flag for each value that is set. What is not set is left to the program, so that its defaults are written down once.
*/}}
{{- define "capi-ipam-in-cluster.args" -}}
- --leader-elect
- --health-probe-bind-address=:{{ .Values.health.port }}
{{- if .Values.metrics.enabled }}
- --diagnostics-address=:{{ .Values.metrics.port }}
- --insecure-diagnostics
{{- else }}
- --diagnostics-address=0
{{- end }}
{{- if .Values.webhooks.enabled }}
- --webhook-port={{ .Values.webhooks.port }}
- --webhook-service-name={{ include "capi-ipam-in-cluster.webhookService" . }}
{{- if .Values.webhooks.certificateSecret }}
- --webhook-cert-dir={{ include "capi-ipam-in-cluster.certificateFolder" . }}
{{- end }}
{{- else }}
- --webhook-port=0
{{- end }}
{{- $flags := dict
  "namespace" .Values.watch.namespace
  "watch-filter" .Values.watch.filter
  "shards" .Values.sharding.shards
  "member-lease-duration" .Values.sharding.memberLeaseDuration
  "lock-delay" .Values.allocation.lockDelay
  "orphan-grace-period" .Values.allocation.orphanGracePeriod
  "adoption-grace-period" .Values.allocation.adoptionGracePeriod
  "log-format" .Values.log.format
  "v" .Values.log.verbosity
}}
{{- range $flag, $value := $flags }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- {{ printf "--%s=%v" $flag $value | quote }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
