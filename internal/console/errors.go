package console

import (
	"encoding/json"
	"net/http"

	"linli/internal/telemetry"
)

// apiError is the code of an error as programs see it. People see its message.
type apiError string

// The errors of the API.
const (
	errHost        apiError = "wrong_host"
	errToken       apiError = "token_required"
	errCrossOrigin apiError = "cross_origin"
	errMethod      apiError = "method_not_allowed"
	errNoPage      apiError = "not_found"
	errNoAlert     apiError = "alert_not_found"
	errNoScenario  apiError = "scenario_not_found"
	errScenario    apiError = "scenario_not_started"
	errMediaType   apiError = "json_required"
	errBadJSON     apiError = "bad_json"
	errTooLarge    apiError = "body_too_large"
	errNeedsName   apiError = "by_required"
	errLongText    apiError = "text_too_long"
	errStillActive apiError = "still_active"
	errBadInput    apiError = "bad_input"
	errStore       apiError = "store_failed"
	errManyStreams apiError = "too_many_streams"
)

// message says for people what went wrong and what to do.
func (e apiError) message() telemetry.Text {
	switch e {
	case errHost:
		return telemetry.Text{Zh: "这个名字打不开控制台，请改用网关的 IP 地址。", En: "The console does not answer under this name; use the gateway's IP address."}
	case errToken:
		return telemetry.Text{Zh: "需要访问口令，请重新打开控制台并输入。", En: "An access code is needed; open the console again and enter it."}
	case errCrossOrigin:
		return telemetry.Text{Zh: "已拒绝来自其他网站的操作。", En: "Requests from another site are refused."}
	case errMethod:
		return telemetry.Text{Zh: "这个地址不支持这种请求。", En: "This address does not take that kind of request."}
	case errNoAlert:
		return telemetry.Text{Zh: "找不到这条告警，它可能已经太久远。", En: "There is no such alert; it may be too old to be kept."}
	case errNoScenario:
		return telemetry.Text{Zh: "没有这个演示情节。", En: "There is no such demo story."}
	case errScenario:
		return telemetry.Text{Zh: "演示没有开始，请稍后再试。", En: "The demo did not start; please try again in a moment."}
	case errMediaType:
		return telemetry.Text{Zh: "请求内容必须是 JSON（application/json）。", En: "The request body must be JSON (application/json)."}
	case errBadJSON:
		return telemetry.Text{Zh: "请求内容看不懂，请检查 JSON。", En: "The request body could not be understood; check the JSON."}
	case errTooLarge:
		return telemetry.Text{Zh: "请求内容太大。", En: "The request body is too large."}
	case errNeedsName:
		return telemetry.Text{Zh: "请先填写姓名或岗位，记录里要写明是谁处理的。", En: "Please give your name or post first: the record says who did it."}
	case errLongText:
		return telemetry.Text{Zh: "文字太长：姓名最多 40 字，说明最多 500 字。", En: "That is too long: a name has at most 40 characters, a note 500."}
	case errStillActive:
		return telemetry.Text{Zh: "现场还没有恢复，暂时不能办结。", En: "The condition still holds, so the alert cannot be closed yet."}
	case errBadInput:
		return telemetry.Text{Zh: "填写的内容不合要求，请检查后再试。", En: "The name or note cannot be recorded as it is; please check it."}
	case errStore:
		return telemetry.Text{Zh: "没有记录成功，请再试一次。", En: "This was not recorded; please try again."}
	case errManyStreams:
		return telemetry.Text{Zh: "打开的页面太多了，请先关掉几个。", En: "Too many pages are open; please close some."}
	}
	return telemetry.Text{Zh: "没有这个页面。", En: "There is no such page."}
}

// problem is the body of every answer that is an error.
type problem struct {
	Error struct {
		Code    apiError       `json:"code"`
		Message telemetry.Text `json:"message"`
		Detail  string         `json:"detail,omitempty"` // for programmers, in English
	} `json:"error"`
}

func writeError(w http.ResponseWriter, status int, code apiError) { writeProblem(w, status, code, "") }

func writeProblem(w http.ResponseWriter, status int, code apiError, detail string) {
	var p problem
	p.Error.Code, p.Error.Message, p.Error.Detail = code, code.message(), detail
	body, _ := json.Marshal(p) // Plain strings: it cannot fail.
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
