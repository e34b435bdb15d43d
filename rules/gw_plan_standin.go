package rules

import (
	"linli/internal/telemetry"
	"linli/rules/response"
)

// Plan stands in.
func (e *Engine) Plan(telemetry.Identity) *response.Plan { return nil }
