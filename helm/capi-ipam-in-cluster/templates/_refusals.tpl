{{/* What values.schema.json cannot refuse, or only in words that nobody understands. */}}
{{- define "capi-ipam-in-cluster.refuse" -}}
{{- if and .Values.metrics.enabled (eq (int .Values.health.port) (int .Values.metrics.port)) }}
{{- fail (printf "health.port and metrics.port are both %d: probes and metrics need a port each" (int .Values.health.port)) }}
{{- end }}
{{- if and .Values.metrics.enabled (contains "." .Release.Name) }}
{{- fail (printf "metrics.enabled: the release name %q has a dot, and no Service can be called so; choose another name, or set metrics.enabled=false" .Release.Name) }}
{{- end }}
{{- if and (not .Values.rbac.clusterWide) (not .Values.watch.namespace) }}
{{- fail "rbac.clusterWide=false: name the namespace whose claims are served in watch.namespace" }}
{{- end }}
{{- if .Values.webhooks.enabled }}
{{- $ports := list (int .Values.health.port) }}
{{- if .Values.metrics.enabled }}{{ $ports = append $ports (int .Values.metrics.port) }}{{ end }}
{{- if has (int .Values.webhooks.port) $ports }}
{{- fail (printf "webhooks.port is %d, which probes or metrics have: each needs a port of its own" (int .Values.webhooks.port)) }}
{{- end }}
{{- if contains "." .Release.Name }}
{{- fail (printf "webhooks.enabled: the release name %q has a dot, and no Service can be called so; choose another name, or set webhooks.enabled=false" .Release.Name) }}
{{- end }}
{{- end }}
{{- $set := list "leader-elect" "leader-election-namespace" "health-probe-bind-address" "health-addr" "diagnostics-address" "insecure-diagnostics" "webhook-port" "webhook-host" "webhook-cert-dir" "webhook-cert-name" "webhook-key-name" "webhook-service-name" }}
{{- range .Values.extraArgs }}
{{- if has (splitList "=" . | first | trimAll "-") $set }}
{{- fail (printf "extraArgs: %s is the chart's own: probes, Service, RBAC and replicas depend on it" .) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if has .name (list "POD_NAME" "POD_NAMESPACE" "POD_UID") }}
{{- fail (printf "extraEnv: %s is the chart's own: it tells replicas apart" .name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.podLabels }}
{{- if has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "cluster.x-k8s.io/provider") }}
{{- fail (printf "podLabels: %s is the chart's own: the Deployment finds its pods by it" $name) }}
{{- end }}
{{- end }}
{{- end }}
