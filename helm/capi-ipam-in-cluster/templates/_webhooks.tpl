{{/*
The webhooks. The end-to-end tests render them without helm (see _helpers.tpl).

With rbac.clusterWide=false they are asked about the pools of watch.namespace alone: of others the program knows nothing.

No caBundle: the program writes it, or cert-manager does, and helm upgrade leaves alone what it has never set.
*/}}

{{/* Name of the Service, and of the Secret with the certificate that the program makes itself. */}}
{{- define "capi-ipam-in-cluster.webhookService" -}}
{{ .Release.Name }}-webhooks
{{- end }}

{{/*
Name of both configurations. The program derives it from its namespace and the Service's name, so that it can write the
caBundle.
*/}}
{{- define "capi-ipam-in-cluster.webhookConfiguration" -}}
{{ .Release.Namespace }}.{{ include "capi-ipam-in-cluster.webhookService" . }}
{{- end }}

{{/* Defaults: the length of a prefix pool that says none. */}}
{{- define "capi-ipam-in-cluster.mutatingWebhooks" -}}
- name: default.inclusterippool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /mutate-ipam-cluster-x-k8s-io-v1alpha2-inclusterippool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  {{- if not .Values.rbac.clusterWide }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.watch.namespace }}
  {{- end }}
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE]
      resources: [inclusterippools]
  sideEffects: None
{{- if .Values.rbac.clusterWide }}
- name: default.globalinclusterippool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /mutate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterippool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE]
      resources: [globalinclusterippools]
  sideEffects: None
{{- end }}
- name: default.inclusterprefixpool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /mutate-ipam-cluster-x-k8s-io-v1alpha2-inclusterprefixpool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  {{- if not .Values.rbac.clusterWide }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.watch.namespace }}
  {{- end }}
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE]
      resources: [inclusterprefixpools]
  sideEffects: None
{{- if .Values.rbac.clusterWide }}
- name: default.globalinclusterprefixpool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /mutate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterprefixpool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE]
      resources: [globalinclusterprefixpools]
  sideEffects: None
{{- end }}
{{- end }}

{{/* What a pool has to be, and that a pool in use stays. Status and scale are not asked about: only the main resource. */}}
{{- define "capi-ipam-in-cluster.validatingWebhooks" -}}
- name: validation.inclusterippool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /validate-ipam-cluster-x-k8s-io-v1alpha2-inclusterippool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  {{- if not .Values.rbac.clusterWide }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.watch.namespace }}
  {{- end }}
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE, DELETE]
      resources: [inclusterippools]
  sideEffects: None
{{- if .Values.rbac.clusterWide }}
- name: validation.globalinclusterippool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /validate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterippool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE, DELETE]
      resources: [globalinclusterippools]
  sideEffects: None
{{- end }}
- name: validation.inclusterprefixpool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /validate-ipam-cluster-x-k8s-io-v1alpha2-inclusterprefixpool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  {{- if not .Values.rbac.clusterWide }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.watch.namespace }}
  {{- end }}
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE, DELETE]
      resources: [inclusterprefixpools]
  sideEffects: None
{{- if .Values.rbac.clusterWide }}
- name: validation.globalinclusterprefixpool.ipam.cluster.x-k8s.io
  admissionReviewVersions: [v1, v1beta1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /validate-ipam-cluster-x-k8s-io-v1alpha2-globalinclusterprefixpool
      port: 443
  failurePolicy: Fail
  matchPolicy: Equivalent
  rules:
    - apiGroups: [ipam.cluster.x-k8s.io]
      apiVersions: [v1alpha2]
      operations: [CREATE, UPDATE, DELETE]
      resources: [globalinclusterprefixpools]
  sideEffects: None
{{- end }}
{{- end }}

{{/* Conversion of a kind that has two versions. */}}
{{- define "capi-ipam-in-cluster.conversion" -}}
strategy: Webhook
webhook:
  conversionReviewVersions: [v1]
  clientConfig:
    service:
      namespace: {{ .Release.Namespace }}
      name: {{ include "capi-ipam-in-cluster.webhookService" . }}
      path: /convert
      port: 443
{{- end }}
