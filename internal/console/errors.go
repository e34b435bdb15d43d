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
	errReserved    apiError = "by_reserved"
	errLongText    apiError = "text_too_long"
	errStillActive apiError = "still_active"
	errBadInput    apiError = "bad_input"
	errStore       apiError = "store_failed"
	errManyStreams apiError = "too_many_streams"

	errNoBus          apiError = "bus_not_found"
	errNotHost        apiError = "bus_cannot_be_asked"
	errBusBusy        apiError = "bus_busy"
	errStopping       apiError = "stopping"
	errFunction       apiError = "function_not_allowed"
	errUndeclared     apiError = "write_not_declared"
	errBadRequest     apiError = "bad_request"
	errNoPoint        apiError = "point_not_found"
	errNotWritable    apiError = "not_writable"
	errBadValue       apiError = "bad_value"
	errTooSoon        apiError = "too_soon"
	errLocked         apiError = "interlocked"
	errSuspended      apiError = "bus_suspended"
	errSuspendedBy    apiError = "suspended_by"
	errOutcomeUnknown apiError = "outcome_unknown"
	errNotTaken       apiError = "not_taken"
	errUnitSilent     apiError = "unit_silent"
	errNotDone        apiError = "not_done"
	errUnreadable     apiError = "unreadable"

	errNoRule      apiError = "rule_not_found"
	errNotReloaded apiError = "rules_not_reloaded"
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
	case errReserved:
		return telemetry.Text{Zh: "“gateway” 是网关自己的名字，请填写您的姓名或岗位。", En: "\"gateway\" is the gateway's own name; please give yours or your post."}
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
	case errNoBus:
		return telemetry.Text{Zh: "没有这条总线，请核对名称。", En: "There is no such bus; check its name."}
	case errNotHost:
		return telemetry.Text{Zh: "这条总线不能直接查询。", En: "This bus cannot be asked."}
	case errBusBusy:
		return telemetry.Text{Zh: "总线正忙，请稍后再试。", En: "The bus is busy; please try again in a moment."}
	case errStopping:
		return telemetry.Text{Zh: "网关正在停止，操作没有执行。", En: "The gateway is stopping; nothing was done."}
	case errFunction:
		return telemetry.Text{Zh: "不允许使用这个功能码。", En: "This function code is not allowed here."}
	case errUndeclared:
		return telemetry.Text{Zh: "这个请求会改动设备：请写明是谁，并注明是写操作（by 和 write）。", En: "This request changes the unit: say who asks and that it is a write (by and write)."}
	case errBadRequest:
		return telemetry.Text{Zh: "请求内容不合要求，请检查。", En: "The request is not as it should be; please check it."}
	case errNoPoint:
		return telemetry.Text{Zh: "没有这个设备或测点，请核对名称。", En: "There is no such device or point; check the names."}
	case errNotWritable:
		return telemetry.Text{Zh: "这个测点不能控制。", En: "This point is not an output."}
	case errBadValue:
		return telemetry.Text{Zh: "这个值不合适，没有执行。", En: "The point cannot take this value; nothing was done."}
	case errTooSoon:
		return telemetry.Text{Zh: "操作太频繁，请稍后再试。", En: "Too many changes in a short time; please wait a moment."}
	case errLocked:
		return telemetry.Text{Zh: "与它互锁的输出还开着，没有执行。请先关掉那一个。", En: "An output that it is interlocked with is on; nothing was done. Switch that one off first."}
	case errSuspended:
		return telemetry.Text{Zh: "总线正在调试，暂停使用，没有执行。", En: "The bus is suspended for commissioning; nothing was done."}
	case errSuspendedBy:
		return telemetry.Text{Zh: "有人正在调试这条总线，请等他用完，或用 linli resume 结束。", En: "Somebody else works on this bus; wait until they are done, or end it with linli resume."}
	case errOutcomeUnknown:
		return telemetry.Text{Zh: "命令已发出，但不知道是否生效，请到现场核实。", En: "The command went out, but whether it took effect is not known; please check on site."}
	case errNotTaken:
		return telemetry.Text{Zh: "设备收到了命令，但没有照做，请检查设备。", En: "The device accepted the command but did not follow it; please check the device."}
	case errUnitSilent:
		return telemetry.Text{Zh: "设备没有应答，命令没有发出。请检查设备的电源和线路。", En: "The device does not answer; nothing was sent. Please check its power and its line."}
	case errNotDone:
		return telemetry.Text{Zh: "没有执行成功，请检查线路和设备。", En: "This could not be done; check the line and the device."}
	case errNoRule:
		return telemetry.Text{Zh: "没有这条规则或这个对象，请核对名称。", En: "There is no such rule, or it has no such subject; check the names."}
	case errNotReloaded:
		return telemetry.Text{Zh: "规则没有更换，原来的规则继续运行。", En: "The rules were not replaced; the former ones go on."}
	case errUnreadable:
		return telemetry.Text{Zh: "记录读不出来，请检查存储。", En: "The record cannot be read; check the disk."}
	}
	return telemetry.Text{Zh: "没有这个页面。", En: "There is no such page."}
}

// problem is the body of every answer that is an error.
type problem struct {
	Error problemDetail `json:"error"`
}

type problemDetail struct {
	Code    apiError       `json:"code"`
	Message telemetry.Text `json:"message"`
	Detail  string         `json:"detail,omitempty"` // for programmers, in English
}

func writeError(w http.ResponseWriter, status int, code apiError) { writeProblem(w, status, code, "") }

func writeProblem(w http.ResponseWriter, status int, code apiError, detail string) {
	p := problem{problemDetail{Code: code, Message: code.message(), Detail: detail}}
	body, _ := json.Marshal(p) // Plain strings: it cannot fail.
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
